"""Editing a steering by hand: what a click does, checked against cell by cell bookkeeping."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from moescope.app.steering import profiles
from moescope.app.steering.edit import cycle, erase, groups, layer_rules, paint, states
from moescope.app.steering.history import Draft, History
from moescope.app.steering.presets import busiest, on_cells, random_control, specialised_for, top_of
from moescope.app.steering.rule_words import answer_html, differing, rule_group
from moescope.store import RouterSpec
from moescope.store.schema import Cell
from moescope.tracer.errors import SteeringError
from moescope.tracer.steering.read import read_rules
from moescope.tracer.steering.rules import Rule

ROUTERS = [
    RouterSpec(layer=layer, num_experts=experts, top_k=2, router=f"layers.{layer}.gate")
    for layer, experts in ((1, 4), (3, 4), (4, 6))
]
CELLS = [Cell("decoder", spec.layer, expert) for spec in ROUTERS for expert in range(spec.num_experts)]


def rules(*values: dict) -> tuple[Rule, ...]:
    return read_rules(values)


def test_a_click_goes_from_neutral_to_off_to_on_and_back():
    cell = Cell("decoder", 3, 2)
    seen: list[tuple[Rule, ...]] = [()]
    for _ in range(3):
        seen.append(cycle(seen[-1], [cell], ROUTERS))
    assert [states(step, ROUTERS).get(cell) for step in seen] == [None, "off", "on", None]
    assert seen[1][0].to_json() == {"rule": "off", "layers": [3], "experts": [2]}
    assert seen[3] == ()


@settings(max_examples=60, deadline=None)
@given(
    some.lists(
        some.tuples(
            some.sampled_from(["off", "on", "zero", "cycle", "erase"]),
            some.lists(some.sampled_from(CELLS), min_size=1, max_size=4, unique=True),
        ),
        max_size=12,
    )
)
def test_the_board_shows_what_every_cell_was_last_set_to(steps):
    now, expected = (), {}
    for name, cells in steps:
        if name == "erase":
            now = erase(now, cells, ROUTERS)
            expected = {cell: state for cell, state in expected.items() if cell not in cells}
            continue
        if name == "cycle":
            wanted = {None: "off", "off": "on", "on": None}.get(expected.get(cells[0]), "off")
            now = cycle(now, cells, ROUTERS)
            if wanted and all(expected.get(cell) == wanted for cell in cells):
                wanted = None
        else:
            wanted = None if all(expected.get(cell) == name for cell in cells) else name
            brush = rules({"rule": name, "experts": "all"})[0]
            now = paint(now, cells, Rule(name, amount=brush.amount, options=brush.options), ROUTERS)
        for cell in cells:
            expected.pop(cell, None)
            if wanted:
                expected[cell] = wanted
    assert states(now, ROUTERS) == expected
    assert states(Draft.from_json(json.dumps(Draft(now).to_json())).rules, ROUTERS) == expected


def test_an_edit_takes_a_loaded_rule_apart_only_where_it_touches_it():
    loaded = rules({"rule": "off", "layers": "all", "experts": [0, 1]}, {"rule": "temperature", "amount": 2})
    assert erase(loaded, [Cell("decoder", 3, 2)], ROUTERS) == loaded
    after = erase(loaded, [Cell("decoder", 3, 1)], ROUTERS)
    assert states(after, ROUTERS).keys() == states(loaded, ROUTERS).keys() - {Cell("decoder", 3, 1)}
    assert after[-1] == loaded[-1]


def test_keep_only_masks_the_others_and_a_later_on_wins():
    kept = rules({"rule": "keep_only", "layers": [1], "experts": [0, 3]})
    assert states(kept, ROUTERS) == {Cell("decoder", 1, 1): "off", Cell("decoder", 1, 2): "off"}
    forced = cycle(kept, [Cell("decoder", 1, 1)], ROUTERS)
    assert states(forced, ROUTERS)[Cell("decoder", 1, 1)] == "on"
    assert forced[0] == kept[0]


@pytest.mark.parametrize(
    ("rule", "state"),
    [
        ({"rule": "bias", "amount": 0.5}, "up"), ({"rule": "bias", "amount": -1}, "down"),
        ({"rule": "bias", "amount": 0}, None), ({"rule": "scale", "amount": 2}, "up"),
        ({"rule": "scale", "amount": 0.5}, "down"), ({"rule": "scale", "amount": 0}, "zero"),
        ({"rule": "scale", "amount": 1}, None), ({"rule": "low"}, "low"),
    ],
)  # fmt: skip
def test_soft_rules_show_their_direction_and_neutral_ones_nothing(rule: dict, state: str | None):
    found = states(rules(rule | {"layers": [4], "experts": [5]}), ROUTERS)
    assert found == ({Cell("decoder", 4, 5): state} if state else {})


def test_rules_on_whole_layers_are_named_by_layer():
    found = layer_rules(
        rules({"rule": "top_k", "amount": 1, "layers": [3]}, {"rule": "temperature", "amount": 1}), ROUTERS
    )
    assert found == {("decoder", 3): ["top_k"]}


def test_undo_and_redo_walk_the_same_way():
    first, second = (
        Draft(rules({"rule": "off", "experts": [1]})),
        Draft(rules({"rule": "on", "experts": [1]}), "named"),
    )
    history = History().then(first).then(first).then(second)
    assert history.undo().now == first
    assert history.undo().undo().now == Draft()
    assert history.undo().undo().undo().now == Draft()
    assert history.undo().redo() == history
    assert history.undo().then(Draft()).future == ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xfe{", "not JSON"), ("[" * 200_000, "not JSON"), ("3", "list called rules"),
        ('{"rules": {}}', "list called rules"),
        ('{"rules": [{"rule": "explode"}]}', "no rule 'explode'"), ('{"version": 9, "rules": []}', "version 9"),
        ('{"rules": [{"rule": "off", "experts": [-1]}]}', "whole number from 0"),
    ],
)  # fmt: skip
def test_a_bad_profile_says_what_is_wrong(data: bytes | str, said: str):
    with pytest.raises(SteeringError, match=said):
        Draft.from_json(data)


def test_a_link_brings_the_profile_back_and_refuses_what_is_none():
    made = Draft(rules({"rule": "off", "layers": [1], "experts": [2]}), "naïve <b>Δ</b>").to_json("m")
    assert Draft.from_json(profiles.from_address(profiles.in_address(made) or "")).name == "naïve <b>Δ</b>"
    assert profiles.from_address(profiles.in_address(made) or "") == made
    for word in ("", "%%%", "eJw", "AAAA", "é"):
        with pytest.raises(ValueError, match="holds no steering profile"):
            profiles.from_address(word)
    many = [{"rule": "vector", "layers": [0], "vector": [n / 7919 % 1 for n in range(9000)]}]
    assert profiles.in_address(Draft(read_rules(many)).to_json()) is None


def test_a_link_that_would_unfold_without_end_is_refused():
    import base64
    import zlib

    bomb = base64.urlsafe_b64encode(zlib.compress(b"[" + b"0," * 5_000_000 + b"0]", 9)).decode()
    with pytest.raises(ValueError, match="too large"):
        profiles.from_address(bomb)


def test_neighbouring_rules_read_as_one():
    made = rules(
        {"rule": "off", "experts": {"1": [0, 1, 2], "3": [3]}},
        {"rule": "bias", "amount": -0.5, "layers": [4], "experts": [1]},
    )
    assert groups(made) == [[0, 1], [2]]
    assert rule_group(made[:2]) == "off: 4 experts · layer 1: 0–2; layer 3: 3"
    assert rule_group(made[2:]) == "bias −0.5 sd: layer 4: 1"
    wide = rules({"rule": "top_k", "amount": 1, "span": "generation"})
    assert rule_group(wide) == "top_k 1 in all layers · generated tokens only"


def test_words_that_differ_are_marked_on_both_sides():
    base, steered = differing("the cat sat. 日本語", "the dog sat. 日本人")
    assert [word for word, marked in base if marked] == ["cat", "語"]
    assert [word for word, marked in steered if marked] == ["dog", "人"]
    assert "".join(word for word, _ in base) == "the cat sat. 日本語"


def test_what_only_one_growing_text_has_so_far_is_no_difference():
    for growing, marked in ((True, []), (False, ["b", "c"])):
        pieces, _ = differing("a b c", "a", growing=growing)
        assert [word for word, differs in pieces if differs] == marked


def test_answers_are_literal():
    pieces, _ = differing("<script>x</script> & **b**", "<i>")
    shown = answer_html(pieces)
    assert "<script" not in shown
    assert "&lt;" in shown
    assert "&amp;" in shown


def test_presets_take_the_cells_that_the_views_rank(make_table):
    scan = make_table(
        layer=[1, 3, 1, 4], expert=[0, 1, 2, 5], score=[0.1, 0.4, -0.9, 0.3], q=[0.01, 0.2, 0.01, 0.04]
    )
    assert top_of(scan, 2, q=0.05) == [Cell("decoder", 4, 5), Cell("decoder", 1, 0)]
    assert top_of(scan, 1, q=None) == [Cell("decoder", 3, 1)]
    experts = make_table(layer=[1, 3, 3], expert=[0, 1, 1], language=["ja", None, "ja"])
    assert specialised_for(experts, "ja") == [Cell("decoder", 1, 0), Cell("decoder", 3, 1)]
    assert specialised_for(experts, None) == [Cell("decoder", 3, 1)]
    load = make_table(layer=[1, 1, 1, 3, 3], expert=[0, 1, 2, 0, 1], count=[5, 9, 5, 1, 2])
    assert busiest(load, 2) == [
        Cell("decoder", 1, 1),
        Cell("decoder", 1, 0),
        Cell("decoder", 3, 1),
        Cell("decoder", 3, 0),
    ]
    assert [
        rule.to_json() for rule in on_cells("scale", [Cell("decoder", 3, 1), Cell("decoder", 1, 2)], 0.5)
    ] == [
        {"rule": "scale", "layers": [1], "experts": [2], "amount": 0.5},
        {"rule": "scale", "layers": [3], "experts": [1], "amount": 0.5},
    ]


@pytest.fixture
def make_table():
    import pyarrow as pa

    def make(**columns):
        count = len(columns["layer"])
        return pa.table({"stream": ["decoder"] * count, **columns})

    return make


@settings(max_examples=40, deadline=None)
@given(some.sets(some.sampled_from(CELLS), min_size=1, max_size=6), some.integers(0, 5))
def test_a_random_control_has_as_many_experts_of_each_layer_and_others_where_it_can(cells, seed):
    made = on_cells("off", cells, None)
    control = random_control(made, ROUTERS, seed)
    assert control == random_control(made, ROUTERS, seed)
    for spec in ROUTERS:
        real = {expert for stream, layer, expert in cells if layer == spec.layer}
        drawn = {expert for rule in control if rule.layers == (spec.layer,) for expert in rule.experts or ()}
        assert len(drawn) == len(real)
        assert all(expert < spec.num_experts for expert in drawn)
        if 2 * len(real) <= spec.num_experts:
            assert not drawn & real

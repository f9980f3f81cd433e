# pyright: reportArgumentType=false
"""Views of a comparison against loops over the events of both traces."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from moescope.kernels.agreement import load_correlation
from moescope.store.compare import pair_traces, view
from moescope.store.errors import BadArgument, UnknownColumn
from moescope.store.notes import notes_of

from .conftest import PLAN, write

FEW = {"resamples": 20}


@pytest.fixture(scope="module")
def pairs(plain, other):
    return pair_traces(plain, other)


@pytest.fixture(scope="module")
def events(plain, other):
    """(prompt, position, layer) → (experts, weights) of both sides."""
    sides = []
    for trace in (plain, other):
        rows = trace.events(columns=["prompt_id", "position", "layer", "experts", "weights"]).to_pylist()
        sides.append(
            {(r["prompt_id"], r["position"], r["layer"]): (r["experts"], r["weights"]) for r in rows}
        )
    return {key: (sides[0][key], sides[1][key]) for key in sides[0]}


def flips_of(events, layer):
    return [set(a[0]) != set(b[0]) for (_, _, at), (a, b) in events.items() if at == layer]


def test_agreement_equals_a_loop(pairs, events):
    table = view(pairs, "agreement", **FEW).to_pylist()
    assert [row["layer"] for row in table] == [0, 1, 2]
    for row in table:
        mine = [pair for (_, _, layer), pair in events.items() if layer == row["layer"]]
        assert row["tokens"] == len(mine)
        assert row["flip_rate"] == pytest.approx(np.mean(flips_of(events, row["layer"])))
        assert row["first_flip"] == pytest.approx(np.mean([a[0][0] != b[0][0] for a, b in mine]))
        assert row["overlap"] == pytest.approx(np.mean([len(set(a[0]) & set(b[0])) / 3 for a, b in mine]))
        distances = []
        for (ids_a, g_a), (ids_b, g_b) in mine:
            one, two = (
                {e: w / sum(g) for e, w in zip(ids, g, strict=True)}
                for ids, g in ((ids_a, g_a), (ids_b, g_b))
            )
            distances.append(sum(abs(one.get(e, 0) - two.get(e, 0)) for e in range(PLAN.experts)) / 2)
        assert row["gate_distance"] == pytest.approx(np.mean(distances), abs=1e-5)
        assert row["chance"] == pytest.approx(3 / PLAN.experts)
        assert row["flip_rate_low"] < row["flip_rate"] < row["flip_rate_high"]
        assert 0.1 < row["flip_rate"] < 0.3


def test_groups_and_filters_are_those_of_the_prompts(pairs, plain, events):
    language = dict(
        zip(*(plain.prompts()[name].to_pylist() for name in ("prompt_id", "language")), strict=True)
    )
    found = {
        row["language"]: row for row in view(pairs, "agreement", by="language", layers="1", **FEW).to_pylist()
    }
    for name, row in found.items():
        mine = {key: pair for key, pair in events.items() if language[key[0]] == name}
        assert row["flip_rate"] == pytest.approx(np.mean(flips_of(mine, 1)))
    one = view(pairs, "agreement", layers="1", where={"language": ["de"]}, **FEW).to_pylist()
    assert one[0]["flip_rate"] == found["de"]["flip_rate"]
    without = view(pairs, "agreement", layers="0", special=False, **FEW)["tokens"][0].as_py()
    assert without == len(flips_of(events, 0)) - PLAN.prompts
    phases = view(pairs, "agreement", by="phase", layers="0", **FEW)["phase"].to_pylist()
    assert phases == ["prefill"]


def test_flips_through_layers_equal_a_loop(pairs, events):
    by_token = defaultdict(dict)
    for (prompt, position, layer), (a, b) in events.items():
        by_token[prompt, position][layer] = set(a[0]) != set(b[0])
    firsts = Counter(next((layer for layer in range(3) if flips[layer]), None) for flips in by_token.values())
    table = view(pairs, "agreement-tokens", **FEW).to_pylist()
    assert [row["first_flips"] for row in table] == [firsts[layer] for layer in range(3)]
    assert table[-1]["so_far"] == pytest.approx(np.mean([any(flips.values()) for flips in by_token.values()]))
    after = [flips[2] for flips in by_token.values() if flips[1]]
    assert table[2]["after_flip"] == pytest.approx(np.mean(after))
    none = [flips[2] for flips in by_token.values() if not (flips[0] or flips[1])]
    assert table[2]["after_none"] == pytest.approx(np.mean(none))
    assert table[0]["after_earlier"] is None


def test_exchanges_equal_a_loop(pairs, events):
    wanted, uses = Counter(), Counter()
    for (_, _, layer), (a, b) in events.items():
        if layer == 2:
            uses.update(a[0])
            new = set(b[0]) - set(a[0])
            for left in set(a[0]) - set(b[0]):
                for came in new:
                    wanted[left, came] += 1 / len(new)
    rows = view(pairs, "agreement-experts", layers="2").to_pylist()
    assert {(r["from_expert"], r["to_expert"]): r["count"] for r in rows} == pytest.approx(wanted)
    assert all(r["share"] == pytest.approx(r["count"] / uses[r["from_expert"]]) for r in rows)
    assert [r["count"] for r in rows] == sorted(wanted.values(), reverse=True)


def test_prompts_come_by_flips_and_one_is_told_token_by_token(pairs, events):
    rows = view(pairs, "agreement-prompts").to_pylist()
    flips = Counter()
    for (prompt, _, _), (a, b) in events.items():
        flips[prompt] += set(a[0]) != set(b[0])
    assert {row["prompt_id"]: row["flips"] for row in rows} == dict(flips)
    assert [row["flip_rate"] for row in rows] == sorted((row["flip_rate"] for row in rows), reverse=True)
    worst = rows[0]["prompt_id"]
    for row in view(pairs, "agreement-of-prompt", prompt_id=worst).to_pylist():
        a, b = events[worst, row["position"], row["layer"]]
        assert (row["experts_a"], row["experts_b"]) == (a[0], b[0])
        assert row["flipped"] == (set(a[0]) != set(b[0]))


def test_a_trace_agrees_with_itself(plain):
    same = pair_traces(plain, plain)
    table = view(same, "agreement", **FEW)
    assert set(table["flip_rate"].to_pylist()) == set(table["gate_distance"].to_pylist()) == {0.0}
    assert table["load_correlation"].to_pylist() == pytest.approx([1.0] * 3)
    assert notes_of(table)[0] == "A and B are the same trace."


def test_sequences_are_nearer_to_themselves_than_to_others(pairs):
    for row in view(pairs, "agreement-sequences", **FEW).to_pylist():
        assert row["prompts"] == PLAN.prompts
        assert row["distance_high"] < row["others_low"]


def test_margins_need_logits_and_say_how_to_get_them(pairs):
    with pytest.raises(UnknownColumn, match="--capture ids,weights,logits"):
        view(pairs, "agreement-margin")


def test_small_margins_flip_first(tmp_path):
    logits = {}

    def with_logits(part):
        for events in part.events:
            rng = np.random.default_rng([events.layer, int(events.prompt[-1]), len(events.prompt)])
            z = rng.normal(size=(len(events.prompt), PLAN.experts)).astype(np.float32)
            events.experts = np.argsort(-z, axis=1)[:, :3].astype(np.uint16)
            events.extras["logits"] = z
            logits[events.layer, len(events.prompt)] = z
        part.sums.clear()

    def perturbed(part):
        with_logits(part)
        for events in part.events:
            rng = np.random.default_rng(len(events.prompt))
            z = events.extras["logits"] + rng.normal(0, 0.1, events.extras["logits"].shape)
            events.experts = np.argsort(-z, axis=1)[:, :3].astype(np.uint16)

    capture = ["ids", "weights", "logits"]
    a = write(tmp_path / "a", with_logits, capture=capture)
    b = write(tmp_path / "b", perturbed, capture=capture)
    table = view(pair_traces(a, b), "agreement-margin", layers="0", **FEW)
    rows = table.to_pylist()
    assert [row["decile"] for row in rows] == list(range(1, 11))
    assert all(one["margin_to"] <= two["margin_from"] for one, two in pairwise(rows))
    assert rows[0]["flip_rate"] > 0.2 > rows[9]["flip_rate"]
    assert not [note for note in notes_of(table) if "bias" in note]


@pytest.mark.parametrize("bias", [0, 3])
def test_a_bias_is_blamed_for_what_no_tie_explains(tmp_path, bias):
    """Coarse logits tie; of tied experts the last is taken here, where a sort takes the first."""

    def change(part):
        for events in part.events:
            rng = np.random.default_rng([events.layer, len(events.prompt)])
            z = np.round(rng.normal(size=(len(events.prompt), PLAN.experts))).astype(np.float32)
            biased = z + bias * (np.arange(PLAN.experts) == 4)
            events.experts = (PLAN.experts - 1 - np.argsort(-biased[:, ::-1], axis=1, kind="stable"))[:, :3]
            events.experts = events.experts.astype(np.uint16)
            events.extras["logits"] = z
        part.sums.clear()

    a = write(tmp_path / "a", change, capture=["ids", "weights", "logits"])
    table = view(pair_traces(a, a), "agreement-margin", layers="0", **FEW)
    assert table["margin_from"][0].as_py() == 0
    assert bool([note for note in notes_of(table) if "bias" in note]) == bool(bias)


def test_load_correlation_by_hand_and_where_nothing_varies():
    counts = np.array([[5, 3, 1, 0], [4, 4, 2, 1]])
    assert load_correlation(counts, counts).point == pytest.approx(1)
    assert load_correlation(counts, counts[:, ::-1]).point == pytest.approx(-1)
    assert np.isnan(load_correlation(counts * 0 + 1, counts).point)


def test_what_is_asked_wrongly_is_refused(pairs):
    with pytest.raises(UnknownColumn, match="no view"):
        view(pairs, "load")
    with pytest.raises(UnknownColumn, match="no parameter 'colour'"):
        view(pairs, "agreement", colour=1)
    with pytest.raises(UnknownColumn, match="needs prompt_id"):
        view(pairs, "agreement-of-prompt")
    with pytest.raises(UnknownColumn, match="no router"):
        view(pairs, "agreement", layers="9")
    with pytest.raises(BadArgument, match="resamples"):
        view(pairs, "agreement", resamples=0)

"""The timeline and the reuse matrix against brute force over events, and the order of every kind of axis."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
import torch

from moescope.store import Trace
from moescope.store.errors import BadArgument
from moescope.tracer import DeclaredRouter, record_routing, save_routing
from moescope.tracer.errors import TracerError, UnknownRouterError


def brute(trace: Trace, layer: int, place) -> dict:
    """(place, expert) → uses and weight, and place → tokens, counted event by event."""
    uses, weights, tokens, prompts = Counter(), Counter(), Counter(), defaultdict(set)
    for event in trace.events(layer=layer).to_pylist():
        x = place(event)
        tokens[x] += 1
        prompts[x].add(event["prompt_id"])
        for expert, weight in zip(event["experts"], event["weights"], strict=True):
            uses[x, expert] += 1
            weights[x, expert] += weight
    return {"uses": uses, "weights": weights, "tokens": tokens, "prompts": prompts}


@pytest.mark.parametrize(("by", "bins"), [("position", 100), ("position", 7), ("language", 64)])
def test_every_number_is_that_of_the_events(shared_trace, by, bins):
    languages = dict(
        zip(*(shared_trace.prompts()[c].to_pylist() for c in ("prompt_id", "language")), strict=True)
    )
    last = max(event["position"] for event in shared_trace.events(layer=1).to_pylist())
    width = -(-(last + 1) // bins)
    counted = brute(
        shared_trace,
        1,
        lambda e: e["position"] // width if by == "position" else languages[e["prompt_id"]],
    )
    rows = shared_trace.view("timeline", by=by, layer=1, top=12, bins=bins).to_pylist()
    assert len(rows) == 12 * len(counted["tokens"])
    for row in rows:
        x = int(row["x"].split("–")[0]) // width if by == "position" else row["x"]
        tokens = counted["tokens"][x]
        assert row["tokens"] == tokens
        assert row["prompts"] == len(counted["prompts"][x])
        assert row["share"] == pytest.approx(counted["uses"][x, row["expert"]] / tokens)
        assert row["use"] == pytest.approx(counted["uses"][x, row["expert"]] / (3 * tokens))
        assert row["weight"] == pytest.approx(counted["weights"][x, row["expert"]] / tokens, abs=1e-6)
        assert row["chance"] == 3 / 12
        if row["low"] is not None:
            assert row["low"] - 1e-9 <= row["share"] <= row["high"] + 1e-9


def test_the_rest_holds_what_the_most_used_experts_leave(shared_trace):
    whole = shared_trace.view("timeline", layer=0, top=12).to_pylist()
    few = shared_trace.view("timeline", layer=0, top=3).to_pylist()
    shown = {row["expert"] for row in few} - {None}
    for x in {row["x"] for row in few}:
        rest = next(row for row in few if row["x"] == x and row["expert"] is None)
        others = [row for row in whole if row["x"] == x and row["expert"] not in shown]
        assert rest["share"] == pytest.approx(sum(row["share"] for row in others))
        assert rest["weight"] == pytest.approx(sum(row["weight"] for row in others))
        assert rest["low"] is None


class Gate(torch.nn.Module):
    def forward(self, ids):
        return ids


def tagged(path, values: list, owners=None) -> Trace:
    """A trace of one row a sample, sample n choosing expert n modulo 4, with a tag `at`."""
    model = torch.nn.ModuleDict({"gate": Gate()})
    router = DeclaredRouter(router="gate", layer=2, num_experts=4, top_k=1, ids=0, owners=owners)
    with record_routing(model, routers=[router]) as routing:
        model["gate"]((torch.arange(len(values)) % 4)[:, None])
    return save_routing(routing, path, samples=[{"at": value} for value in values])


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        (["10", "9", "-1", "0.5"], "number", ["-1", "0.5", "9", "10"]),
        (["2024-02-01", "2023-12-31", "2024-01-15"], "date", ["2023-12-31", "2024-01-15", "2024-02-01"]),
        (["warm up", "train", "end"], "order", ["warm up", "train", "end"]),
    ],
)
def test_an_axis_has_the_tags_own_order(tmp_path, values, kind, names):
    rows = tagged(tmp_path / "t", values).view("timeline", by="at").to_pylist()
    assert list(dict.fromkeys(row["x"] for row in rows)) == names
    assert {row["axis"] for row in rows} == {kind}
    at = [row["at"] for row in rows]
    assert at == sorted(at)
    for row in rows:
        assert row["share"] == float(row["expert"] == values.index(row["x"]) % 4)


def test_many_numbers_are_put_together_and_many_names_refused(tmp_path):
    rows = tagged(tmp_path / "n", list(range(300))).view("timeline", by="at", bins=10).to_pylist()
    assert len({row["x"] for row in rows}) == 10
    assert sum(row["tokens"] for row in rows) == 4 * 300
    assert rows[0]["x"] == "0–29"
    with pytest.raises(BadArgument, match="neither numbers nor dates"):
        tagged(tmp_path / "m", [f"name {n}" for n in range(300)]).view("timeline", by="at")


def test_owners_are_kept_and_counted_and_refused_where_they_are_not_one_an_expert(tmp_path):
    trace = tagged(tmp_path / "t", list(range(8)), owners=(2, 2, 1, 1))
    assert trace.routers[0].owners == (2, 2, 1, 1)
    assert [trace.routers[0].owner(expert) for expert in range(4)] == [2, 2, 1, 1]
    rows = trace.view("reuse").to_pylist()
    assert [(row["owner"], row["count"], row["use"], row["even"]) for row in rows] == [
        (1, 4, 0.5, 0.5),
        (2, 4, 0.5, 0.5),
    ]
    with pytest.raises(UnknownRouterError, match="3 owners for 4 experts"):
        tagged(tmp_path / "u", [1, 2], owners=(2, 2, 1))


def test_a_layer_of_its_own_experts_alone_has_one_row(shared_trace):
    assert [(row["layer"], row["owner"], row["use"]) for row in shared_trace.view("reuse").to_pylist()] == [
        (layer, layer, 1.0) for layer in range(3)
    ]


def test_rows_of_samples_are_named_one_by_one_and_streams_may_skip_samples(tmp_path):
    model = torch.nn.ModuleDict({"a": Gate(), "b": Gate()})
    routers = [
        DeclaredRouter(router=name, layer=0, num_experts=4, top_k=1, ids=0, stream=name)
        for name in ("a", "b")
    ]
    with record_routing(model, routers=routers) as routing:
        model["a"](torch.tensor([[[0], [1]], [[2], [3]]]))
        model["b"](torch.tensor([[[1], [1]]]))
    names = [["x", "y"], ["y", "z"], ["z", "x"]]
    passed = {"a": [0, 1], "b": [2]}
    trace = save_routing(routing, tmp_path / "t", samples=3, rows=names, passed=passed)
    assert [trace.tokens(str(n))["token"].to_pylist() for n in range(3)] == names
    assert trace.tokens("1")["token_id"].to_pylist() == [1, 2]
    assert {event["prompt_id"] for event in trace.events(stream="b").to_pylist()} == {"2"}
    assert [e["experts"] for e in trace.events("1", stream="a").to_pylist()] == [[2], [3]]
    with pytest.raises(TracerError, match="1 names were given"):
        save_routing(routing, tmp_path / "u", samples=3, rows=[["x"], ["y"], ["z"]], passed=passed)

"""What is written is what is read, and rollups are what a loop over the events gives."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts_by_hand import Recorded, record

from moescope.app.cli.commands import run
from moescope.store import Trace, TraceWriter, open_trace

MANY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEEDS = st.integers(0, 10**6)


def written(recorded: Recorded, folder: str) -> Trace:
    with TraceWriter(folder, routers=recorded.routers, model={}, prompt_set={}, settings={}) as out:
        for part in recorded.parts:
            out.write(part)
        out.finish()
    return open_trace(folder)


@MANY
@given(SEEDS)
def test_nan_is_found_by_prompt_and_router(seed: int) -> None:
    recorded = record(seed)
    order = [row["prompt_id"] for row in recorded.prompts]
    with tempfile.TemporaryDirectory() as folder:
        rows = written(recorded, folder).nan_rows().to_pylist()
    found = Counter((e["prompt_id"], e["layer"], e["stream"]) for e in recorded.events if e["nan"])
    assert {(row["prompt_id"], row["layer"], row["stream"]): row["tokens"] for row in rows} == found
    keys = [(order.index(row["prompt_id"]), row["layer"], row["stream"]) for row in rows]
    assert keys == sorted(set(keys))


def test_nan_is_told_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = record(3)  # a tenth of its events have NaN in the logits
    folder = str(tmp_path / "t")
    written(recorded, folder)
    bad = [event for event in recorded.events if event["nan"]]
    assert run(["info", folder, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["nan_events"] == len(bad) > 1
    assert {row["prompt_id"] for row in facts["nan"]} == {event["prompt_id"] for event in bad}
    first = facts["nan"][0]
    for words in (["info", folder], ["sql", folder, "SELECT 1"]):
        assert run(words) == 0
        said = capsys.readouterr().err
        assert f"{len(bad)} routing events had NaN in the router's logits" in said
        assert f": prompt {first['prompt_id']} at layer {first['layer']}" in said


@MANY
@given(SEEDS)
def test_prompts_tokens_and_events_come_back(seed: int) -> None:
    recorded = record(seed)
    with tempfile.TemporaryDirectory() as folder:
        trace = written(recorded, folder)
        assert trace.verify() == []
        assert trace.problems == []
        prompts = trace.prompts().to_pylist()
        assert [p["prompt_id"] for p in prompts] == [p["prompt_id"] for p in recorded.prompts]
        for found, expected in zip(prompts, recorded.prompts, strict=True):
            assert {name: found[name] for name in expected} == expected
        names = ("prompt_id", "position", "token_id", "token", "phase", "special", "completion")
        assert trace.tokens().to_pylist() == [{n: t[n] for n in names} for t in recorded.tokens]
        names = ("prompt_id", "position", "layer", "stream", "experts", "weights")
        found = sorted(trace.events().to_pylist(), key=repr)
        assert found == sorted(({n: e[n] for n in names} for e in recorded.events), key=repr)
        assert trace.num_events == len(recorded.events)
        _check_one_prompt(trace, recorded)


def _check_one_prompt(trace: Trace, recorded: Recorded) -> None:
    for prompt in recorded.prompts[:2]:
        prompt_id = prompt["prompt_id"]
        spec = recorded.routers[-1]
        events = trace.events(prompt_id, layer=spec.layer, stream=spec.stream, columns=["experts"])
        expected = [
            e["experts"]
            for e in recorded.events
            if (e["prompt_id"], e["layer"], e["stream"]) == (prompt_id, spec.layer, spec.stream)
        ]
        assert events["experts"].to_pylist() == expected
        tokens = [t["position"] for t in recorded.tokens if t["prompt_id"] == prompt_id]
        assert trace.tokens(prompt_id)["position"].to_pylist() == tokens


@MANY
@given(
    SEEDS, st.booleans(), st.sampled_from([None, "prefill", "decode"]), st.sampled_from([None, True, False])
)
def test_rollup_arrays_are_what_a_loop_over_events_gives(
    seed: int, special: bool, phase: str | None, completion: bool | None
) -> None:
    recorded = record(seed)
    with tempfile.TemporaryDirectory() as folder:
        trace = written(recorded, folder)
        for spec in recorded.routers:
            chosen = [
                e
                for e in recorded.events
                if (e["layer"], e["stream"]) == (spec.layer, spec.stream)
                and (special or not e["token"]["special"])
                and (phase is None or e["token"]["phase"] == phase)
                and (completion is None or e["token"]["completion"] == completion)
            ]
            arrays = trace.rollup_arrays(
                spec.layer, spec.stream, special=special, phase=phase, completion=completion
            )
            ids = [p["prompt_id"] for p in recorded.prompts]
            by_prompt = {prompt_id: [e for e in chosen if e["prompt_id"] == prompt_id] for prompt_id in ids}
            expected_rows = [i for i, prompt_id in enumerate(ids) if by_prompt[prompt_id]]
            assert arrays.prompt_index.tolist() == expected_rows
            for row, index in enumerate(expected_rows):
                _check_row(arrays, row, by_prompt[ids[index]], spec.num_experts)


def _check_row(arrays, row: int, events: list[dict], num_experts: int) -> None:
    count, weight, probability = (np.zeros(num_experts) for _ in range(3))
    for event in events:
        for expert, gate in zip(event["experts"], event["weights"], strict=True):
            count[expert] += 1
            weight[expert] += gate
        if not event["nan"]:
            probability += event["probability"]
    assert arrays.tokens[row] == len(events)
    assert arrays.nan_tokens[row] == sum(e["nan"] for e in events)
    assert arrays.count[row].tolist() == count.tolist()
    np.testing.assert_array_equal(arrays.weight_sum[row], weight)
    np.testing.assert_array_equal(arrays.probability_sum[row], probability)


@MANY
@given(SEEDS, st.booleans())
def test_a_pass_over_a_router_sees_every_event_once(seed: int, special: bool) -> None:
    recorded = record(seed)
    with tempfile.TemporaryDirectory() as folder:
        trace = written(recorded, folder)
        ids = [p["prompt_id"] for p in recorded.prompts]
        for spec in recorded.routers:
            found = []
            for batch in trace.iter_router(
                spec.layer,
                spec.stream,
                columns=("experts", "weights"),
                token_columns=("token_id",),
                special=special,
            ):
                lists = [row[row >= 0].tolist() for row in batch.padded()]
                found += zip(
                    [ids[i] for i in batch.prompt_index],
                    batch.position_N.tolist(),
                    lists,
                    batch.tokens["token_id"].tolist(),
                    strict=True,
                )
            expected = [
                (
                    e["prompt_id"],
                    e["position"],
                    e["experts"],
                    -1 if e["token"]["token_id"] is None else e["token"]["token_id"],
                )
                for e in recorded.events
                if (e["layer"], e["stream"]) == (spec.layer, spec.stream)
                and (special or not e["token"]["special"])
            ]
            assert found == expected


@MANY
@given(SEEDS)
def test_where_and_by_choose_prompts_by_column_and_tag(seed: int) -> None:
    recorded = record(seed, parts=3)
    with tempfile.TemporaryDirectory() as folder:
        trace = written(recorded, folder)
        spec = recorded.routers[0]
        languages = {p["prompt_id"]: p["language"] for p in recorded.prompts}
        colours = {p["prompt_id"]: dict(p["tags"]).get("colour") for p in recorded.prompts}
        if "red" not in colours.values():
            return
        counts = trace.counts("language", where={"colour": ["red"]}, layer=spec.layer, stream=spec.stream)
        found = Counter()
        for row in counts.to_pylist():
            found[row["language"], row["expert"]] += row["count"]
        expected = Counter(
            (languages[e["prompt_id"]], expert)
            for e in recorded.events
            if colours[e["prompt_id"]] == "red" and (e["layer"], e["stream"]) == (spec.layer, spec.stream)
            for expert in e["experts"]
        )
        assert +found == +expected


def test_sparse_rollups_of_very_many_experts_give_the_same_sums(tmp_path: Path, monkeypatch) -> None:
    recorded = record(3)
    dense = written(recorded, str(tmp_path / "dense"))
    monkeypatch.setattr("moescope.store.write.rollups.DENSE_EXPERTS", 1)
    sparse = written(recorded, str(tmp_path / "sparse"))
    for spec in recorded.routers:
        a, b = (t.rollup_arrays(spec.layer, spec.stream) for t in (dense, sparse))
        np.testing.assert_array_equal(a.count, b.count)
        np.testing.assert_array_equal(a.weight_sum, b.weight_sum)
        np.testing.assert_array_equal(a.probability_sum, b.probability_sum)
    assert dense.view("load", stream=recorded.routers[0].stream).equals(
        sparse.view("load", stream=recorded.routers[0].stream)
    )


@pytest.mark.parametrize("weight_type", ["float16", "float32"])
def test_weights_keep_the_precision_that_was_asked_for(tmp_path: Path, weight_type: str) -> None:
    recorded = record(11)
    values = {}
    for part in recorded.parts:
        for events in part.events:
            events.weights = np.linspace(0.9, 0.1, events.experts.size, dtype=np.float32).reshape(
                events.experts.shape
            )
            values.setdefault((events.layer, events.stream), []).append(events.weights.ravel())
    with TraceWriter(
        tmp_path / "t",
        routers=recorded.routers,
        model={},
        prompt_set={},
        settings={},
        weight_type=weight_type,
    ) as out:
        for part in recorded.parts:
            out.write(part)
    trace = open_trace(tmp_path / "t")
    for (layer, stream), arrays in values.items():
        expected = np.concatenate(arrays).astype(weight_type).astype(np.float32)
        stored = [w for row in trace.events(layer=layer, stream=stream)["weights"].to_pylist() for w in row]
        np.testing.assert_array_equal(np.array(stored, np.float32), expected)

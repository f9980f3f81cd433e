"""A trace without structure is at every chance line; odd shapes are measured or refused, never a crash."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from events_by_hand import even_trace, rows_of, sequences
from parts_by_hand import record

from moescope.store import Trace, TraceWriter, open_trace
from moescope.store.errors import StoreError
from moescope.store.importers import run
from moescope.store.notes import notes_of

VIEWS = {
    "local-consistency": {"m": "1,2"},
    "cache-hits": {},
    "explained": {"by": "language"},
    "specialisation": {"by": "language"},
    "tag-information": {"by": "group", "permutations": 5},
    "repeats": {},
    "expert-map": {"by": "token"},
    "load-drift": {"batches": 3},
    "load-influence": {},
}


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return even_trace(tmp_path_factory.mktemp("even") / "trace")


def test_the_token_explains_nothing_where_it_means_nothing(even: Trace) -> None:
    table = even.view("explained", by="language").to_pylist()
    assert len(table) == 2 * 4 + 1
    for row in table:
        assert abs(row["share"]) < 0.02
        if row["low"] is not None:
            margin = (
                row["high"] - row["low"]
            ) / 2  # 95 % of a handful: twice as wide fails one time in thousands
            assert row["low"] - margin < 0 < row["high"] + margin
    token = next(row for row in table if row["label"] == "token")
    assert token["information"] > 0.1 * token["entropy"]


def test_consistency_and_repeats_are_at_chance(even: Trace) -> None:
    for row in even.view("local-consistency", m="4,16").to_pylist():
        margin = row["high"] - row["low"]
        assert abs(row["srp"] - row["even"]) < margin + 0.01
        assert abs(row["independent"] - row["even"]) < 0.02
        assert row["short"] == 0
        assert row["prompts"] == 60
    for row in even.view("repeats").to_pylist():
        error = np.sqrt(row["even"] * (1 - row["even"]) / row["pairs"])
        assert abs(row["repeats"] - row["even"]) < 4.5 * error
        assert row["pairs"] == 60 * (19 + 19)  # no pair reaches from the prompt into what was generated
    fixed = even.view("cache-hits", policies="fixed", sizes="4").to_pylist()
    assert [row["phase"] for row in fixed] == ["prefill", "decode"] * 2
    assert all(abs(row["hit_rate"] - 0.5) < 0.05 for row in fixed)


def test_chance_is_that_of_the_experts_that_steering_left(tmp_path: Path) -> None:
    """The router has k = 4, tokens keep 1 to 4: its own k would put chance at 4/8."""
    trace = even_trace(tmp_path / "trace", layers=1, k=4, steered=True)
    sizes = [len(row["experts"]) for row in rows_of(trace, 0)]
    chance = np.mean(sizes) / 8
    assert 0.2 < chance < 0.4
    for name, params in {
        "specialisation": {"by": "language"},
        "tag-experts": {"by": "language", "value": "en"},
        "expert-shares": {"by": "language", "layer": 0, "expert": 1},
        "timeline": {"by": "language", "layer": 0},
        "routing-consistency": {},
    }.items():
        assert trace.view(name, **params)["chance"].to_pylist() == pytest.approx(
            [chance] * trace.view(name, **params).num_rows
        )
    for depth in (1, 2, 4):
        [row] = trace.view("repeats", depth=depth).to_pylist()
        error = np.sqrt(row["even"] * (1 - row["even"]) / row["pairs"])
        assert abs(row["repeats"] - row["even"]) < 4.5 * error
    for row in trace.view("local-consistency", m="4,16").to_pylist():
        assert abs(row["srp"] - row["even"]) < row["high"] - row["low"] + 0.01


def test_tags_paths_and_neighbours_are_at_chance(even: Trace) -> None:
    information = even.view("tag-information", by="language").to_pylist()
    assert max(row["q_value"] for row in information) > 0.02
    for row in even.view("paths", layers="0:1", limit=0).to_pylist():
        assert abs(row["count"] - row["expected"]) < 5 * np.sqrt(row["expected"])
    for row in even.view("expert-neighbours", layer=0, expert=3, limit=0, least=1).to_pylist():
        within = 1 / 7 / (2 / 8) if row["where"] == "same layer" else 1.0  # one seat left for seven others
        assert row["lift"] == pytest.approx(within, abs=0.35)
    vocabulary = even.view("vocabulary", layer=0, limit=0, least=5).to_pylist()
    assert np.mean([row["beats_luck"] for row in vocabulary]) < 0.12


@pytest.mark.parametrize("seed", range(6))
def test_odd_shapes(seed: int) -> None:
    """Two phases in any order, gaps, empty slots, several streams, prompts without a token."""
    recorded = record(seed)
    with tempfile.TemporaryDirectory() as folder:
        with TraceWriter(folder, routers=recorded.routers, model={}, prompt_set={}, settings={}) as out:
            for part in recorded.parts:
                out.write(part)
            out.finish()
        trace = open_trace(Path(folder))
        for spec in trace.routers:
            for view, params in VIEWS.items():
                with contextlib.suppress(StoreError):
                    trace.view(view, stream=spec.stream, **params)
            rows = rows_of(trace, spec.layer, spec.stream)
            accesses: Counter[str] = Counter()
            for phase, _, experts in sequences(rows):
                accesses[phase] += sum(map(len, experts))
            table = trace.view("cache-hits", layers=spec.layer, stream=spec.stream, sizes="1").to_pylist()
            found = {row["phase"]: row["accesses"] for row in table if row["policy"] == "lru"}
            assert {phase: n for phase, n in found.items() if n} == {p: n for p, n in accesses.items() if n}
            windows: Counter[str] = Counter()
            for phase, _, experts in sequences(rows):
                windows[phase] += max(len(experts) - 1, 0)
            table = trace.view("local-consistency", layers=spec.layer, stream=spec.stream, m="2").to_pylist()
            assert {row["phase"]: row["windows"] for row in table if row["windows"]} == dict(+windows)


def test_counts_without_events_say_what_they_lack(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(40, (4, 2, 6))
    np.savez(tmp_path / "counts.npz", counts=counts)
    run("counts", tmp_path / "counts.npz", tmp_path / "trace", top_k=2)
    trace = open_trace(tmp_path / "trace")
    for view in ("local-consistency", "cache-hits", "explained", "repeats"):
        table = trace.view(view)
        assert table.num_rows == 0
        assert "counts only" in notes_of(table)[0]
    assert trace.view("load-influence").num_rows == 2
    assert trace.view("load-drift", batches=2).num_rows == 6
    assert trace.view("expert-contexts", layer=0, expert=1, per_prompt=1).num_rows == 0

"""The histogram of an expert's gate weights against brute force over events."""

from __future__ import annotations

import numpy as np
import pytest

from moescope.app.figures.structure.gate_histogram import gate_histogram
from moescope.store import StoreError, Trace


def by_hand(trace: Trace, layer: int, expert: int) -> dict[str, tuple[list[float], int]]:
    """Language → weights of the expert, and how many tokens there are."""
    languages = dict(zip(*(trace.prompts()[c].to_pylist() for c in ("prompt_id", "language")), strict=True))
    found: dict[str, tuple[list[float], int]] = {}
    for event in trace.events(layer=layer).to_pylist():
        weights, tokens = found.get(languages[event["prompt_id"]], ([], 0))
        mine = [w for e, w in zip(event["experts"], event["weights"], strict=True) if e == expert]
        found[languages[event["prompt_id"]]] = (weights + mine, tokens + 1)
    return found


def test_every_count_is_that_of_the_events(shared_trace):
    table = shared_trace.view("gate-weights", layer=1, expert=4, by="language", bins=8).to_pylist()
    expected = by_hand(shared_trace, 1, 4)
    assert {row["language"] for row in table} == set(expected)
    for language, (weights, tokens) in expected.items():
        rows = [row for row in table if row["language"] == language]
        counts = [
            sum(row["low"] <= w < row["high"] or w == row["high"] == 1 for w in weights) for row in rows
        ]
        assert [row["count"] for row in rows] == counts
        assert [row["share"] for row in rows] == pytest.approx([count / tokens for count in counts])
        assert {(row["chosen"], row["tokens"]) for row in rows} == {(len(weights), tokens)}
        assert [rows[0]["low"], rows[-1]["high"]] == [0, 1]
        assert [row["mean"] for row in rows] == pytest.approx([np.mean(weights)] * len(rows))


def test_without_a_tag_there_is_one_histogram_of_all(shared_trace):
    rows = shared_trace.view("gate-weights", layer=0, expert=2).to_pylist()
    assert len(rows) == 10
    assert sum(row["count"] for row in rows) == rows[0]["chosen"]
    load = shared_trace.view("load", layer=0).to_pylist()[2]
    assert (rows[0]["chosen"], rows[0]["tokens"]) == (load["count"], load["tokens"])


def test_an_expert_that_is_not_there_is_refused(shared_trace):
    with pytest.raises(StoreError, match="99"):
        shared_trace.view("gate-weights", layer=0, expert=99)


def test_the_picture_has_a_cell_for_each_value_and_bin(shared_trace):
    table = shared_trace.view("gate-weights", layer=1, expert=4, by="language", bins=5)
    chart = gate_histogram(table, by="language", expert=4).to_dict()
    cells = next(iter(chart["datasets"].values()))
    assert len(cells) == table.num_rows
    np.testing.assert_allclose([cell["share"] for cell in cells], table["share"].to_pylist())

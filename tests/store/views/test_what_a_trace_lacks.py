"""Views of traces that hold less than a recording: an answer, or no rows and the reason; never a table of zeros."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moescope.store import Trace, open_trace, views
from moescope.store.errors import StoreError
from moescope.store.importers import run
from moescope.store.notes import notes_of

COUNTS = {"a": [3, 4, 2, 3], "b": [4, 1, 4, 3], "c": [0, 4, 4, 4]}
GIVEN: dict[str, Any] = {
    "layer": 0, "expert": 1, "by": "language", "target": "en", "other_target": "de", "cells": "0:1", "prompts": "a",
    "where_a": {"language": ["en"]},
    "prompt_id": "a", "token": "x", "layers": "0:1", "to_layer": 1, "group": "x", "other_by": "language",
}  # fmt: skip


def counts_only(folder: Path, **tokens: int) -> Trace:
    """Three sequences, two layers, 4 experts; two choices a token."""
    rows = [
        {"sequence": name, "layer": layer, "expert": e, "count": n, "language": "de" if name == "c" else "en"} | tokens
        for name, counts in COUNTS.items() for layer in (0, 1) for e, n in enumerate(counts)
    ]  # fmt: skip
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run("counts", folder / "c.jsonl", folder / "t")
    return open_trace(folder / "t")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return counts_only(tmp_path_factory.mktemp("counts"), tokens=6)


def parameters_for(view: str) -> dict[str, Any]:
    return {
        name: GIVEN[name]
        for name, parameter in views.parameters(view).items()
        if parameter.default is inspect.Parameter.empty
        or (name in GIVEN and name in ("token", "layers", "by", "where_a"))
        if name in GIVEN
    }


@pytest.mark.parametrize("view", views.names())
def test_every_view_of_counts_answers_or_says_what_it_lacks(trace: Trace, view: str) -> None:
    try:
        table = trace.view(view, **parameters_for(view))
    except (StoreError, TypeError):  # it says what it lacks, or needs a file of rules
        return
    notes = " ".join(notes_of(table))
    if table.num_rows == 0:
        assert notes
        return
    assert "Counts only" in notes
    measured = [
        name for name in ("tokens", "count", "uses_a", "pairs", "hits", "value") if name in table.column_names
    ]
    assert any(value for name in measured for value in table[name].to_pylist()) or not measured, (
        "a table of zeros"
    )


def test_pairs_of_counts_are_unknown_and_loads_are_what_the_file_says(trace: Trace) -> None:
    for view, more in {"co-activation": {}, "transitions": {}, "expert-tokens": {"expert": 1}}.items():
        table = trace.view(view, layer=0, **more)
        assert table.num_rows == 0
        assert table.num_columns
        assert notes_of(table)[0].startswith("The trace holds counts only, and no single events")
    load = trace.view("load", layer=0, by="language").to_pylist()
    assert [row["count"] for row in load if row["language"] == "en"] == [7, 5, 6, 6]
    assert {row["tokens"] for row in load if row["language"] == "en"} == {12}
    (row,) = trace.sql("SELECT DISTINCT phase FROM rollups").to_pylist()
    assert row == {"phase": "unknown"}
    for phase in ("prefill", "decode"):
        table = trace.view("load", phase=phase)
        assert table.num_rows == 0
        assert f"No token has phase {phase}: there is nothing to measure." in notes_of(table)


def test_where_tokens_are_unknown_shares_are_of_choices_and_said_to_be(tmp_path: Path) -> None:
    trace = counts_only(tmp_path)
    load = trace.view("load", layer=0)
    assert sum(load["share"].to_pylist()) == pytest.approx(1)
    assert "tokens unknown" in notes_of(load)[0]
    consistency = trace.view("routing-consistency")
    assert consistency.num_rows == 0
    assert "How many tokens the counts are of is unknown" in notes_of(consistency)[0]


def test_an_empty_table_says_why(tmp_path: Path) -> None:
    rows = "sequence,step,layer,expert,token\na,0,0,1,x\na,1,0,1,y\n"
    (tmp_path / "e.csv").write_text(rows)
    run("neutral", tmp_path / "e.csv", tmp_path / "t", experts=4)
    trace = open_trace(tmp_path / "t")
    assert "no ids" in notes_of(trace.view("expert-tokens", layer=0, expert=1))[0]
    assert "No prompt has a language" in notes_of(trace.view("routing-consistency"))[0]
    assert notes_of(trace.view("expert-contexts", layer=0, expert=3))[0].startswith("No rows:")


NAMES = (
    "tokens",
    "count",
    "layer",
    "expert",
    "share",
    "stream",
    "value",
    "chance",
    "experts",
    "dead",
    "weight_sum",
)


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    folder = tmp_path_factory.mktemp("tags")
    rows = [
        {"sequence": s, "step": step, "layer": 0, "expert": (step + at) % 3,
         "tag": {name: f"{name}-{'long' if at % 3 == 0 else 'short'}" for name in NAMES}}
        for at, s in enumerate("abcd") for step in range(2 + at)
    ]  # fmt: skip
    header = [
        "sequence",
        "step",
        "layer",
        "expert",
        *(f"{name}" for name in NAMES if name not in ("layer", "expert")),
    ]
    lines = [",".join(header)]
    for row in rows:
        tags = [row["tag"][name] for name in header[4:]]
        lines.append(",".join([row["sequence"], str(row["step"]), "0", str(row["expert"]), *tags]))
    text = "\n".join(lines).replace(",stream", ",path", 1)
    (folder / "e.csv").write_text(text)
    run("neutral", folder / "e.csv", folder / "t", experts=3)
    return open_trace(folder / "t")


@pytest.mark.parametrize(
    "tag", ["tokens", "count", "share", "value", "chance", "experts", "dead", "weight_sum"]
)
def test_a_tag_may_be_called_like_a_column_of_the_result(tagged: Trace, tag: str) -> None:
    """Prompts a and d are long (2 + 5 tokens), b and c short (3 + 4)."""
    for view, more in {
        "load": {"layer": 0},
        "load-balance": {},
        "expert-shares": {"layer": 0, "expert": 1},
    }.items():
        table = tagged.view(view, by=tag, **more)
        assert len(set(table.column_names)) == table.num_columns
        (column,) = [
            name for name in table.column_names if name in (tag, f"by:{tag}") and table[name].type == "string"
        ]
        tokens = dict(zip(table[column].to_pylist(), table["tokens"].to_pylist(), strict=True))
        assert tokens == {f"{tag}-long": 7, f"{tag}-short": 7}, view
    counted = tagged.counts(by=tag)
    assert counted.num_rows == 2 * 3


@pytest.mark.parametrize("units", [2, 4, 5])
def test_few_units_give_points_without_intervals_and_say_why(tmp_path: Path, units: int) -> None:
    rng = np.random.default_rng(units)
    rows = [
        {"sequence": f"{language}{unit}", "step": step, "layer": 0, "expert": int(p.argmax()), "language": language,
         "parallel_id": str(unit), "probabilities": p.tolist()}
        for language in ("en", "de") for unit in range(units) for step in range(3)
        for p in [rng.dirichlet(np.ones(4))]
    ]  # fmt: skip
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run("neutral", tmp_path / "e.jsonl", tmp_path / "t")
    trace = open_trace(tmp_path / "t")
    for view, value in {"alignment": "divergence", "routing-entropy": "entropy"}.items():
        table = trace.view(view)
        assert table[value].null_count == 0
        assert table["low"].null_count == (table.num_rows if units < 5 else 0)
        assert any("units has no interval" in note for note in notes_of(table)) == (units < 5)

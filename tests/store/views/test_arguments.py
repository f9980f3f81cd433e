"""Numbers and words that a view can do nothing with are refused; selections that hold nothing say so."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest

from moescope.store import Trace, open_trace, views
from moescope.store.errors import BadArgument, StoreError, UnknownColumn
from moescope.store.importers import run
from moescope.store.notes import notes_of
from moescope.store.views import registry

NEEDED: dict[str, dict[str, Any]] = {
    "expert-tokens": {"layer": 1, "expert": 2},
    "expert-contexts": {"layer": 1, "expert": 2},
    "resonance": {"by": "language", "target": "en"},
    "resonance-overlap": {"by": "language", "target": "en", "other_target": "de"},
    "resonance-tokens": {"by": "language", "target": "en", "cells": "1:2"},
    "co-activation": {"layer": 1},
    "transitions": {"layer": 1},
    "prompt-maps": {"prompts": "p000000"},
    "expert-neighbours": {"layer": 1, "expert": 2},
    "expert-weights": {"layer": 1, "expert": 2},
    "expert-likeness": {"layer": 1, "expert": 2},
    "expert-shares": {"layer": 1, "expert": 2, "by": "language"},
    "flows": {"layers": "0:2"},
    "path-groups": {"layers": "0:2"},
    "paths": {"layers": "0:2"},
    "specialisation": {"by": "language"},
    "tag-experts": {"by": "language", "value": "en"},
    "tag-information": {"by": "language"},
    "token-contexts": {"token_ids": "1,2"},
    "token-experts": {"token": "t1"},
    "vocabulary": {"layer": 1},
}
REFUSED: list[tuple[str, str, Any, str]] = [
    ("expert-tokens", "limit", -3, "limit is -3; it takes a whole number from 0 on (0 for all)"),
    ("expert-tokens", "least", -1, "least is -1; it takes a whole number from 0 on"),
    ("expert-tokens", "expert", -1, "expert is -1; it takes a whole number from 0 on"),
    ("expert-contexts", "limit", 0, "limit is 0; it takes a whole number from 1 on"),
    ("expert-contexts", "context", -1, "context is -1; it takes a whole number from 0 on"),
    ("alignment", "resamples", 0, "resamples is 0; it takes a whole number from 1 to 1,000,000"),
    ("alignment", "resamples", 10**8, "resamples is 100000000; it takes a whole number from 1 to 1,000,000"),
    ("alignment", "resamples", 2.5, "resamples is 2.5; it takes a whole number from 1 to 1,000,000"),
    ("alignment", "seed", -1, "seed is -1; it takes a whole number from 0 to 9,223,372,036,854,775,807"),
    ("resonance", "permutations", 0, "permutations is 0; it takes a whole number from 1 to 1,000,000"),
    ("resonance", "stability", -1, "stability is -1; it takes a whole number from 0 to 1,000,000"),
    ("resonance", "top", 0, "top is 0; it takes a whole number from 1 on"),
    ("resonance", "last", 0, "last is 0; it takes a whole number from 1 on"),
    ("resonance", "measure", "nope", "measure is 'nope'; it takes one of rate, count, weight, weight_rate"),
    ("resonance", "ranking", "best", "ranking is 'best'; it takes one of absolute, target, rest"),
    ("prompt-maps", "measure", None, "measure is None; it takes one of rate, count, weight, weight_rate"),
    ("specialised-experts", "tau", math.nan, "tau is nan; it takes a number from 0 to 1"),
    ("specialised-experts", "tau", -0.1, "tau is -0.1; it takes a number from 0 to 1"),
    ("specialised-experts", "tau", math.inf, "tau is inf; it takes a number from 0 to 1"),
    ("load", "phase", "generated", "phase is 'generated'; it takes one of prefill, decode"),
]


@pytest.mark.parametrize(
    ("view", "name", "value", "says"), REFUSED, ids=[f"{r[0]}-{r[1]}={r[2]}" for r in REFUSED]
)
def test_what_a_view_can_do_nothing_with_is_refused(
    shared_trace: Trace, view: str, name: str, value: Any, says: str
) -> None:
    with pytest.raises(BadArgument) as caught:
        shared_trace.view(view, **NEEDED.get(view, {}) | {name: value})
    assert str(caught.value) == says


def test_every_number_that_a_view_takes_has_a_range_or_names_what_the_trace_has() -> None:
    from moescope.store.views._arguments import RANGES

    named = {"layer", "to_layer", "frames"}
    for view in views.names():
        for name, parameter in views.parameters(view).items():
            if parameter.annotation in (int, float, int | None, float | None):
                assert name in RANGES or name in named, f"{view}: {name}"


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"rows": -1}, "rows is -1; it takes a whole number from 1 to 100,000,000"),
        ({"rows": 0}, "rows is 0"),
        ({"seconds": 0}, "seconds is 0; it takes a number above 0, up to 86,400"),
        ({"seconds": -1.0}, "seconds is -1.0"),
        ({"seconds": math.nan}, "seconds is nan"),
        ({"seconds": math.inf}, "seconds is inf"),
        ({"memory_mb": 0}, "memory_mb is 0; it takes a whole number from 64 to 1,048,576"),
    ],
)
def test_limits_of_a_query_are_checked(shared_trace: Trace, limits: dict[str, Any], says: str) -> None:
    with pytest.raises(BadArgument) as caught:
        shared_trace.sql("SELECT 1", **limits)
    assert says in str(caught.value)


def test_a_value_that_no_prompt_has_is_an_error_that_names_those_there_are(shared_trace: Trace) -> None:
    for where in ({"language": ["xx"]}, {"language": ["en", "xx"]}, {"language": "xx"}):
        with pytest.raises(UnknownColumn, match="no prompt has language 'xx'; there is: de, en, es, fr"):
            shared_trace.view("load", where=where)
    with pytest.raises(UnknownColumn, match="no prompt has language 'xx'"):
        shared_trace.counts(where={"language": ["xx"]})
    with pytest.raises(UnknownColumn, match="no prompt has language ''"):
        shared_trace.events(where={"language": [""]})


def test_a_list_without_values_chooses_no_prompt(shared_trace: Trace) -> None:
    assert shared_trace.events(where={"language": []}).num_rows == 0
    assert shared_trace.prompts({"prompt_id": []}).num_rows == 0
    assert shared_trace.view("load", where={"language": []}).num_rows == 0


@pytest.mark.parametrize("view", [name for name in views.names() if "phase" in views.parameters(name)])
def test_no_view_measures_a_phase_that_the_trace_does_not_have(shared_trace: Trace, view: str) -> None:
    try:
        table = shared_trace.view(view, phase="decode", **NEEDED.get(view, {}))
    except StoreError:
        return
    assert table.num_rows == 0
    assert table.num_columns
    assert "No token has phase decode: there is nothing to measure." in notes_of(table)


def test_conditions_that_no_prompt_satisfies_together_leave_an_empty_table_that_says_so(
    shared_trace: Trace,
) -> None:
    first, second = shared_trace.prompts().slice(0, 2).to_pylist()
    where = {"prompt_id": [first["prompt_id"]], "language": [second["language"]]}
    assert first["language"] != second["language"]
    for view in ("load", "load-balance", "co-activation", "expert-tokens", "routing-entropy"):
        table = shared_trace.view(view, where=where, **NEEDED.get(view, {}))
        assert table.num_rows == 0
        (why, *_) = notes_of(table)
        assert why.startswith(f"No prompt has prompt_id {first['prompt_id']} and language")


def test_only_the_pivot_left_says_that_there_is_nothing_to_compare(shared_trace: Trace) -> None:
    table = shared_trace.view("alignment", where={"language": ["en"]})
    assert table.num_rows == 0
    assert "Only the pivot language en is left: there is no other to compare with it." in notes_of(table)
    with pytest.raises(StoreError, match="the selection has no prompt in the pivot language 'en'"):
        shared_trace.view("alignment", where={"language": ["de"]})


def test_every_view_is_found_by_its_source_alone() -> None:
    """Without all views imported; the module that explains registration is not taken for one that does it."""
    for name in views.names():
        assert next(registry.registering(name)) == inspect.unwrap(registry.get(name)).__module__


def test_names_and_numbers_as_python_writes_them(shared_trace: Trace, tmp_path: Path) -> None:
    """A notebook names a view like a function, and a prompt by the number that was its id."""
    assert shared_trace.view("load_balance").equals(shared_trace.view("load-balance"))
    (tmp_path / "e.csv").write_text("sequence,step,layer,expert\n7,0,0,1\n8,0,0,0\n")
    run("neutral", tmp_path / "e.csv", tmp_path / "t")
    trace = open_trace(tmp_path / "t")
    assert trace.tokens(7).equals(trace.tokens("7"))
    assert trace.events(7)["experts"].to_pylist() == [[1]]


def test_the_manifest_reads_like_its_file(shared_trace: Trace) -> None:
    manifest = shared_trace.manifest
    assert dict(manifest) == json.loads(shared_trace.folder.read("trace.json"))
    assert manifest["routers"] == [spec.to_json() for spec in shared_trace.routers]
    assert "colour" not in manifest

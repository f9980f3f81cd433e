"""The tracer itself, killed with a real model at work: what it committed stays, and it can go on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from zygote import Zygote, kill_and_resume

from moescope.store import Trace, open_trace
from moescope.store.errors import NotATrace

KILLS = 52
ORDER = [("prompt_id", "ascending"), ("layer", "ascending"), ("position", "ascending")]


@pytest.fixture(scope="module")
def tracer() -> Iterator[Zygote]:
    made = Zygote(Path(__file__).parents[2] / "tracer" / "tracer_zygote.py")
    yield made
    made.close()


def by_prompt(table: pa.Table) -> pa.Table:
    return table.sort_by([(name, how) for name, how in ORDER if name in table.column_names])


def agrees(folder: Path, at_least: int, whole: Trace) -> None:
    """The trace opens and verifies, has what was committed, and all of it is as in an uninterrupted run."""
    try:
        trace = open_trace(folder)
    except NotATrace:
        assert at_least == 0
        return
    assert trace.problems == []
    assert trace.verify() == []
    assert trace.num_prompts >= at_least
    assert trace.num_tokens == trace.tokens().num_rows
    where = {"prompt_id": trace.prompts()["prompt_id"].to_pylist()}
    assert by_prompt(trace.events()).equals(by_prompt(whole.events(where=where)))
    assert by_prompt(trace.tokens()).equals(by_prompt(whole.tokens(where=where)))
    assert by_prompt(trace.prompts()).equals(by_prompt(whole.prompts(where)))


@pytest.mark.timeout(900)
def test_sigkill_of_the_tracer_at_many_random_moments(tracer: Zygote, tmp_path: Path) -> None:
    usual = tracer.seconds_of(str(tmp_path / "whole"))
    whole = open_trace(tmp_path / "whole")
    assert len(whole.parts) > 4
    rng = random.Random(2)
    kills = traces = 0
    while kills < KILLS:
        folder = tmp_path / str(traces)
        traces += 1
        kills += kill_and_resume(
            tracer, str(folder), usual, rng, lambda least, at=folder: agrees(at, least, whole)
        )
        resumed = open_trace(folder)
        assert resumed.state == "complete"
        assert resumed.num_prompts == whole.num_prompts
        same = resumed.view("load", by="language")
        assert same.drop_columns(["weight_sum", "mean_probability"]).equals(
            whole.view("load", by="language").drop_columns(["weight_sum", "mean_probability"])
        )
    assert traces > 3

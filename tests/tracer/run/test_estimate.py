"""What a trace will cost is told after its first batches, and whoever is asked decides."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import character_tokenizer, tiny_olmoe

from moescope.store import open_trace
from moescope.store.library import summarise
from moescope.tracer import trace_prompts
from moescope.tracer.run import estimate, progress
from moescope.tracer.run.estimate import TraceDeclined
from moescope.tracer.run.progress import Meter

PROMPTS = [{"id": f"p{i}", "text": "a sentence of equal length"} for i in range(12)]
NEW = 3


@pytest.fixture(autouse=True)
def asks_at_once(monkeypatch):
    monkeypatch.setattr(estimate, "FIRST_LOOK_S", 0.0)
    monkeypatch.setattr(estimate, "WORTH_ASKING_S", 0.0)


def test_the_size_is_told_once_and_a_yes_ends_in_the_whole_trace(tmp_path):
    asked, told = [], []

    def consider(found):
        asked.append(found)
        return True

    trace_prompts(tiny_olmoe(), character_tokenizer(), PROMPTS, tmp_path / "t", batch_size=4, max_new_tokens=NEW,
                  consider=consider, progress=told.append)  # fmt: skip
    (found,) = asked
    assert (found.prompts, found.total_prompts) == (4, 12)
    assert found.seconds > 0
    # Files have a head of their own: of a small part it is more than of the larger one that follows.
    assert 0.8 < found.bytes / summarise(tmp_path / "t").bytes < 2.5
    assert open_trace(tmp_path / "t").num_prompts == 12
    assert [one.step for one in told if one.generating] == [1, 2, 3] * 3
    shares = [one.share for one in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_no_ends_the_run_after_its_first_batch(tmp_path):
    with pytest.raises(TraceDeclined):
        trace_prompts(tiny_olmoe(), character_tokenizer(), PROMPTS, tmp_path / "t", batch_size=4,
                      consider=lambda found: False)  # fmt: skip
    assert open_trace(tmp_path / "t").num_prompts == 4


def test_the_time_left_leaves_out_the_first_batch_and_the_time_of_the_question(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lengths = np.full(4, 100, np.int64)
    meter = Meter([np.array([i]) for i in range(4)], lengths, None)
    now[0] = 10.0
    meter.count([0])
    assert meter.left_s == pytest.approx(30.0)
    with meter.paused():
        now[0] += 500.0
    now[0] += 1.0
    meter.count([1])
    assert meter.seconds == 11.0
    assert meter.left_s == pytest.approx(2.0)

"""MENTOR and PMOE: weights sum to 1, and the experts change along an episode."""

import numpy as np
import pytest


@pytest.mark.parametrize(("stream", "many"), [("actor", 2), ("mixture", 4)])
def test_the_weights_of_every_step_sum_to_one(made, stream, many):
    events = made("actor").events(stream=stream).to_pylist()
    assert {len(event["experts"]) for event in events} == {many}
    np.testing.assert_allclose([sum(event["weights"]) for event in events], 1, atol=2e-3)
    assert all(event["weights"] == sorted(event["weights"], reverse=True) for event in events)


@pytest.mark.parametrize("stream", ["actor", "mixture"])
def test_experts_at_the_start_of_an_episode_are_not_those_of_its_end(made, stream):
    rows = made("actor").view("timeline", stream=stream).to_pylist()
    weight = {(row["at"], row["expert"]): row["weight"] for row in rows if row["expert"] is not None}
    steps = sorted({at for at, _ in weight})
    start, end = ([np.mean([weight[at, e] for at in of]) for e in range(4)] for of in (steps[:8], steps[-8:]))
    assert sum(start) == pytest.approx(1, abs=0.01)
    assert np.abs(np.subtract(start, end)).sum() / 2 > 0.03  # a gate that ignores what it sees gives 0

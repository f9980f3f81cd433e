"""The published scaling law at its published points."""

import numpy as np
import pytest

from moescope.kernels.scaling import (
    best_granularity,
    efficiency_leverage,
    granularity,
    outside_fit,
    sparsity,
    tokens_per_parameter,
)


@pytest.mark.parametrize(
    ("activation", "granularity", "value"),
    [(0.031, 12, 7.245), (0.034, 12, 6.961), (0.125, 4, 3.31), (0.25, 0.571, 1.57)],
)
def test_published_points(activation, granularity, value):
    assert efficiency_leverage(activation, granularity, 1e22) == pytest.approx(value, abs=6e-3)


def test_the_best_granularity_is_where_the_law_is_largest():
    grid = np.geomspace(1, 64, 4001)
    best = grid[np.argmax([efficiency_leverage(0.05, g, 1e22) for g in grid])]
    assert best_granularity() == pytest.approx(11.34, abs=0.01)
    assert best == pytest.approx(best_granularity(), rel=2e-3)


def test_the_card():
    assert sparsity(8, 64) == 0.875
    assert tokens_per_parameter(5e12, 7e9) == pytest.approx(714.2857)
    for wrong in ((0, 4, 1e20), (1.1, 4, 1e20), (0.5, 0, 1e20), (0.5, 4, -1)):
        with pytest.raises(ValueError, match="must"):
            efficiency_leverage(*wrong)


def test_granularity_and_what_lies_outside_the_fit():
    # d = 2,048 and experts of 3 · 2,048 · 1,024 parameters: d_expert is 1,024.
    assert granularity(2048, 3 * 2048 * 1024) == 4
    assert outside_fit(0.031, 12) == []
    assert len(outside_fit(0.125, 4)) == 1
    assert len(outside_fit(0.25, 0.571)) == 2

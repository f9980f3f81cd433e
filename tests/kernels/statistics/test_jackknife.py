"""Leaving groups out: the textbook standard error of a mean, its coverage, and what it refuses."""

import numpy as np
import pytest

from moescope.kernels.statistics.jackknife import deal, jackknife_interval


def left_out(values, groups):
    return np.array([values[groups != g].mean() for g in np.unique(groups)])


def test_each_unit_its_own_group_gives_the_standard_error_of_the_mean():
    values = np.random.default_rng(0).normal(size=12)
    found = jackknife_interval(values.mean(), left_out(values, np.arange(12)))
    half = 2.200985 * values.std(ddof=1) / np.sqrt(12)  # Student's t at 11 degrees of freedom
    assert found.high - found.point == pytest.approx(half, rel=1e-5)
    assert found.point - found.low == pytest.approx(half, rel=1e-5)
    assert found.units == 12


def test_it_covers_what_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(300):
        values = rng.exponential(size=200)
        found = jackknife_interval(values.mean(), left_out(values, deal(200, seed=seed)))
        inside += found.low <= 1 <= found.high
    assert 0.9 < inside / 300 < 0.985


def test_groups_are_of_even_size():
    assert np.bincount(deal(105)).tolist() == sorted(np.bincount(deal(105)), reverse=True)
    assert np.ptp(np.bincount(deal(105))) <= 1
    assert sorted(deal(5)) == [0, 1, 2, 3, 4]
    assert len(deal(0)) == 0


def test_one_group_knows_nothing_of_its_spread():
    found = jackknife_interval([1.0, 2.0], [[1.0, 2.0]])
    assert np.isnan(found.low).all()
    with pytest.raises(ValueError, match="left_out"):
        jackknife_interval(1.0, [[1.0, 2.0]])
    with pytest.raises(ValueError, match="NaN"):
        jackknife_interval(1.0, [1.0, np.nan])

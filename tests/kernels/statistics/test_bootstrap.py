"""bootstrap_interval and correlation: against loops, known variances, and the edges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.kernels.alignment import bootstrap_interval, correlation
from moescope.kernels.statistics.bootstrap import resample
from moescope.kernels.statistics.percentiles import percentile_bounds, student_quantile, tail_share

quick = settings(deadline=None, max_examples=40)


def resample_counts(units, resamples, seed):
    return np.concatenate(list(resample(units, resamples, seed)))


def test_every_resample_draws_as_many_units_with_the_right_spread(monkeypatch):
    counts = resample_counts(30, 4000, seed=1)
    assert (counts.sum(1) == 30).all()
    assert counts.mean() == pytest.approx(1)
    assert counts.var() == pytest.approx(1 - 1 / 30, rel=0.03)
    assert (counts == resample_counts(30, 4000, seed=1)).all()
    assert (counts != resample_counts(30, 4000, seed=2)).any()
    monkeypatch.setattr("moescope.kernels.statistics.bootstrap._COUNT_CELLS", 1000)
    assert (counts == resample_counts(30, 4000, seed=1)).all()


def test_the_mean_of_many_columns_equals_resampling_in_a_loop():
    values = np.random.default_rng(0).normal(size=(12, 2, 3))
    interval = bootstrap_interval(values, resamples=500, seed=4)
    counts = resample_counts(12, 500, seed=4).astype(int)
    means = np.stack([values[np.repeat(np.arange(12), row)].mean(0) for row in counts])
    np.testing.assert_allclose(interval.point, values.mean(0))
    np.testing.assert_allclose(interval.low, np.quantile(means, tail_share(0.95, 12), axis=0))
    np.testing.assert_allclose(interval.high, np.quantile(means, 1 - tail_share(0.95, 12), axis=0))
    assert interval.units.tolist() == [[12] * 3] * 2


def test_any_statistic_of_unit_indexes():
    values = np.random.default_rng(0).normal(size=60)
    by_hand = bootstrap_interval(values, lambda units: values[units].mean(), seed=3)
    fast = bootstrap_interval(values, seed=3)
    assert by_hand.point == pytest.approx(fast.point)
    assert by_hand.low == pytest.approx(fast.low, abs=0.03)
    assert by_hand.high == pytest.approx(fast.high, abs=0.03)
    both = bootstrap_interval(values, lambda u: [np.median(values[u]), values[u].max()], resamples=50)
    assert both.point.tolist() == [np.median(values), values.max()]
    assert both.low.shape == (2,)


def test_weights_make_a_ratio_of_sums_and_leave_units_out():
    values = np.array([[1.0, np.nan], [3.0, 5.0], [2.0, 6.0]])
    weights = np.array([[1.0, 0.0], [3.0, 2.0], [0.0, 2.0]])
    interval = bootstrap_interval(values, weights=weights, seed=0)
    assert interval.point.tolist() == [2.5, 5.5]
    assert interval.units.tolist() == [2, 2]
    assert ((interval.low >= [1, 5]) & (interval.high <= [3, 6])).all()
    by_unit = bootstrap_interval([[1.0, 2.0], [3.0, 4.0]], weights=[1, 3])
    assert by_unit.point.tolist() == [2.5, 3.5]


def test_half_the_units_of_weight_zero_widen_the_interval_as_half_the_units_do():
    values = np.random.default_rng(5).normal(size=200)
    weights = np.repeat([1.0, 0.0], 100)
    some = bootstrap_interval(values, weights=weights)
    assert some.high - some.low == pytest.approx(4 * values[:100].std() / 10, rel=0.1)


def test_one_unit_says_nothing_about_spread():
    interval = bootstrap_interval([[1.0, 2.0]])
    assert interval.point.tolist() == [1, 2]
    assert np.isnan([interval.low, interval.high]).all()
    alone = bootstrap_interval([[1.0, 2.0], [3.0, np.nan]], weights=[[1, 1], [1, 0]])
    assert np.isnan(alone.low).tolist() == [False, True]
    assert np.isnan(bootstrap_interval([2.0], lambda u: 2.0).low)
    nobody = bootstrap_interval([1.0, 2.0], weights=[0, 0])
    assert np.isnan([nobody.point, nobody.low]).all()
    assert nobody.units == 0


def test_columns_in_turn_give_what_all_at_once_give(monkeypatch):
    values = np.random.default_rng(0).normal(size=(8, 37)).astype(np.float32)
    whole = bootstrap_interval(torch.tensor(values), resamples=100)
    monkeypatch.setattr("moescope.kernels.statistics.bootstrap._COLUMN_CELLS", 500)
    pieces = bootstrap_interval(values, resamples=100)
    np.testing.assert_allclose(whole.low, pieces.low, rtol=1e-12)
    np.testing.assert_allclose(whole.high, pieces.high, rtol=1e-12)


@pytest.mark.parametrize("units", [10, 60])
def test_about_95_percent_of_intervals_hold_the_truth(units):
    """Columns are independent repetitions; a skewed distribution of divergences with a known mean."""
    values = np.random.default_rng(units).beta(2, 6, size=(units, 2000))
    interval = bootstrap_interval(values, resamples=1000)
    coverage = np.mean((interval.low <= 0.25) & (interval.high >= 0.25))
    assert coverage == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.30265), (4, 2.77645), (5, 2.57058), (30, 2.04227), (1000, 1.96234), (5000, 1.96044)],
)
def test_student_quantiles_equal_the_printed_tables(freedom, quantile):
    assert student_quantile(0.975, freedom) == pytest.approx(quantile, rel=3e-6)
    assert tail_share(0.95, 10**6) == pytest.approx(0.025, rel=1e-4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: bootstrap_interval([]), "at least one unit"),
        (lambda: bootstrap_interval(3.0), "at least one unit"),
        (lambda: bootstrap_interval([[1.0, 2.0], [np.nan, 0.0]]), r"values\[1, 0\] is NaN"),
        (lambda: bootstrap_interval([1.0, np.nan], weights=[1, 1]), r"values\[1\] is NaN"),
        (lambda: bootstrap_interval([1.0, 2.0], weights=[1.0, -1.0]), r"weights\[1\]"),
        (lambda: bootstrap_interval([1.0, 2.0], weights=[1.0]), "weights have shape"),
        (lambda: bootstrap_interval([1.0], level=1.0), "level"),
        (lambda: bootstrap_interval([1.0], resamples=0), "resamples"),
        (lambda: bootstrap_interval([1.0], lambda u: 0, weights=[1]), "weights apply"),
        (lambda: correlation([1, 2], [1, 2]), "at least 3 pairs, got 2"),
        (lambda: correlation([1, 2, np.nan], [1, 2, 3]), r"x\[2\] is NaN"),
        (lambda: correlation([1, 2, 3], [1, 2, 3, 4]), "one length"),
        (lambda: correlation([1, 2, 3], [1, 2, 3], "kendall"), "method"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_wrong_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_undefined_resamples_are_left_out():
    statistics = np.array([[np.nan, np.nan, 1.0], [1.0, np.nan, 3.0], [3.0, np.nan, 5.0]])
    bounds = percentile_bounds(statistics, 0.5, np.array([10**6, 10**6, 1]))
    assert bounds[:, 0].tolist() == pytest.approx([1.5, 2.5], abs=1e-4)
    assert np.isnan(bounds[:, 1:]).all()


def mid_ranks(x):
    return [sum(b < a for b in x) + (sum(b == a for b in x) + 1) / 2 for a in x]


@quick
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=12), st.booleans())
def test_correlation_equals_a_loop_over_resamples(points, ranked):
    x, y = np.array(points, float).T
    method = "spearman" if ranked else "pearson"

    def r_of(a, b):
        if len(set(a)) == 1 or len(set(b)) == 1:
            return np.nan
        return np.corrcoef(*((mid_ranks(a), mid_ranks(b)) if ranked else (a, b)))[0, 1]

    result = correlation(x, y, method, resamples=40, seed=7)
    counts = resample_counts(len(x), 40, seed=7).astype(int)
    drawn = [np.repeat(np.arange(len(x)), row) for row in counts]
    values = np.array([r_of(x[d], y[d]) for d in drawn])
    assert result.r == pytest.approx(np.nan_to_num(r_of(x, y)), abs=1e-9)
    assert result.undefined == pytest.approx(np.isnan(values).mean())
    if not np.isnan(values).all():
        tail = tail_share(0.95, len(x))
        expected = np.nanquantile(values, [tail, 1 - tail])
        assert (result.low, result.high) == pytest.approx(tuple(expected), abs=1e-7)


def test_correlation_of_a_line_and_of_a_constant():
    x = np.array([1e9, 1e9 + 1, 1e9 + 2, 1e9 + 3])
    assert correlation(x, 3 - 2 * x).r == pytest.approx(-1)
    assert correlation(x, x**3, "spearman").r == 1
    still = correlation([1, 2, 3], [5, 5, 5])
    assert (still.r, still.undefined) == (0, 1)
    assert np.isnan([still.low, still.high]).all()

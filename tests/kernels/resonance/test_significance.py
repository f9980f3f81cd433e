"""Benjamini-Hochberg, overlap of findings, maps and risk differences."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moescope.kernels.resonance import (
    benjamini_hochberg,
    overlap,
    prompt_maps,
    risk_difference,
    risk_difference_interval,
)

quick = settings(deadline=None, max_examples=60)


@quick
@given(hnp.arrays(np.float64, st.integers(1, 15), elements=st.floats(0, 1)), st.floats(0.01, 0.5))
def test_q_below_alpha_is_the_step_up_procedure(p, alpha):
    """Reject the k smallest for the largest k with p_(k) <= k alpha / n: no running minimum."""
    in_order = np.sort(p)
    passes = np.flatnonzero(in_order <= np.arange(1, len(p) + 1) * alpha / len(p) * (1 - 1e-12))
    limit = in_order[passes[-1]] if passes.size else -1
    q = benjamini_hochberg(p)
    assert ((q <= alpha * (1 - 1e-12)) == (p <= limit)).all() or np.isclose(q, alpha).any()
    assert (q >= p).all()
    assert (q <= 1).all()


def test_benjamini_hochberg_of_a_hand_example():
    q = benjamini_hochberg([[0.01, 0.04], [0.03, 0.5]])
    np.testing.assert_allclose(q, [[0.04, 0.16 / 3], [0.16 / 3, 0.5]])
    assert benjamini_hochberg([]).shape == (0,)
    for bad in ([1.5], [-0.1], [np.nan]):
        with pytest.raises(ValueError, match="p_values"):
            benjamini_hochberg(bad)


def test_overlap_p_is_exact_over_all_choices_within_layers():
    a = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)
    b = np.array([[1, 0, 1, 0], [1, 0, 0, 0]], bool)
    shared = []
    for first in combinations(range(4), 2):
        for second in range(4):
            shared.append(len({0, 1} & set(first)) + (second == 0))
    result = overlap(a, b)
    assert (result.jaccard, result.shared) == (0.5, 2)
    assert result.expected == pytest.approx(np.mean(shared))
    assert result.p_value == pytest.approx(np.mean(np.array(shared) >= 2))
    anywhere = [len({0, 1, 4} & set(chosen)) for chosen in combinations(range(8), 3)]
    loose = overlap(a, b, within_layers=False)
    assert loose.p_value == pytest.approx(np.mean(np.array(anywhere) >= 2))


def test_overlap_of_the_same_of_nothing_and_of_a_large_model():
    few = np.zeros((58, 256), bool)
    few[:, 0] = True
    same = overlap(few, few)
    assert same.jaccard == 1
    assert same.p_value == pytest.approx(256.0**-58)
    nothing = overlap(np.zeros((2, 3), bool), np.zeros((2, 3), bool))
    assert (nothing.jaccard, nothing.p_value) == (0, 1)
    with pytest.raises(ValueError, match="boolean"):
        overlap([[1]], [[1]])
    with pytest.raises(ValueError, match="one shape"):
        overlap(few, few[:2])


def test_maps_of_every_measure():
    counts, weights = np.array([[[2, 6]], [[1, 0]]]), np.array([[[0.5, 1.5]], [[0.25, 0]]])
    assert prompt_maps(counts, measure="count").tolist() == counts.tolist()
    assert prompt_maps(weights=weights, measure="weight").tolist() == weights.tolist()
    assert prompt_maps(counts, [8, 1]).tolist() == [[[0.25, 0.75]], [[1, 0]]]
    assert prompt_maps(tokens=[[8], [1]], weights=weights, measure="weight_rate")[0, 0, 1] == 1.5 / 8
    assert prompt_maps([[[0, 0]]], [0]).tolist() == [[[0, 0]]]


def test_risk_difference_is_a_difference_of_shares():
    assert risk_difference(3, 10, 1, 10) == pytest.approx(0.2)
    assert risk_difference(0, 0, 1, 2) == -0.5
    np.testing.assert_allclose(risk_difference([[1, 2]], 4, [0, 4], 8), [[0.25, 0]])


def test_risk_difference_interval_resamples_prompts_not_tokens():
    """Prompts that choose an expert always or never: the spread is that of 40 coin tosses, not of 4,000."""
    rng = np.random.default_rng(1)
    tokens = np.full(40, 100)
    always = rng.random((40, 200)) < 0.5
    never = np.zeros((30, 200))
    interval = risk_difference_interval(always * 100, tokens, never, np.full(30, 50), resamples=500)
    np.testing.assert_allclose(interval.point, always.mean(0))
    assert np.mean(interval.high - interval.low) == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(40), rel=0.12)
    covered = (interval.low <= 0.5) & (interval.high >= 0.5)
    assert 0.88 < covered.mean() < 0.99
    single = risk_difference_interval([3], [10], [1], [10])
    assert single.point == pytest.approx(0.2)
    assert np.isnan(single.low)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: prompt_maps([[[1]]], measure="share"), "measure must be"),  # pyright: ignore[reportArgumentType]
        (lambda: prompt_maps([[[1]]]), "needs tokens"),
        (lambda: prompt_maps(tokens=[1]), "needs counts"),
        (lambda: prompt_maps([[[1]]], [1], measure="weight_rate"), "needs weights"),
        (lambda: prompt_maps([[[1]]], [1, 2]), "tokens have shape"),
        (lambda: prompt_maps([[[1]]], [0]), "0 tokens"),
        (lambda: risk_difference(3, 2, 0, 1), "selected_a is larger"),
        (lambda: risk_difference(1, 2, np.nan, 1), "selected_b is NaN"),
        (lambda: risk_difference_interval([3, 1], [2, 2], [1], [1]), "selected_a is larger"),
        (lambda: risk_difference_interval([[1], [1]], [2, 2], [1], [1]), "is for experts"),
        (lambda: risk_difference_interval([1], [2, 2], [1], [1]), r"tokens_a \(P,\)"),
    ],
)
def test_wrong_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()

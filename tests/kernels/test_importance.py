"""Scores of experts and tokens: the hand-worked examples, and the formulas written out as loops."""

import numpy as np
import pytest

from moescope.kernels.importance import (
    balanced_subset,
    block_importance,
    calibration_sigma,
    easy_ep_score,
    frequency_score,
    gate_score,
    mix_domains,
    online_dropping,
    outlier_score,
    reap_score,
    token_importance,
)

IDS = np.array([[0, 1], [1, 2], [2, -1]])
GATES = np.array([[0.75, 0.25], [0.5, 0.5], [1.0, np.nan]])
NORMS = np.array([[2.0, 4.0], [1.0, 3.0], [5.0, np.nan]])


def test_frequency_and_gate_of_a_hand_example():
    np.testing.assert_allclose(frequency_score(IDS, 4), [0.2, 0.4, 0.4, 0])
    np.testing.assert_allclose(gate_score(IDS, GATES, 4), [0.75, 0.75, 1.5, 0])


def test_reap_is_a_mean_over_the_experts_own_tokens():
    # Expert 1: .25 · 4 and .5 · 1; expert 2: .5 · 3 and 1 · 5.
    np.testing.assert_allclose(reap_score(IDS, GATES, NORMS, 4), [1.5, 0.75, 3.25, 0])


def test_easy_ep_weighs_tokens_by_how_far_they_move_and_ignores_negative_changes():
    np.testing.assert_allclose(
        easy_ep_score(IDS, GATES, NORMS, [0.5, 0.1, -1e-7], 4), [0.75, 0.5 * 1 + 0.1 * 0.5, 0.1 * 1.5, 0]
    )


def test_easy_ep_can_turn_the_order_of_frequency_around():
    # Expert 1 is used twice, expert 0 once by a token that moves far.
    ids, gates, norms = [[0, 1], [1, 2]], [[0.6, 0.4], [0.7, 0.3]], [[1.0, 0.5], [0.2, 0.2]]
    score = easy_ep_score(ids, gates, norms, [0.9, 0.1], 3)
    assert frequency_score(ids, 3).argmax() == 1
    assert score.argmax() == 0


def test_scores_name_a_nan_and_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"ids\[1, 0\] is NaN"):
        gate_score(IDS, np.where(np.arange(3)[:, None] == 1, np.nan, GATES), 4)
    with pytest.raises(ValueError, match="changes have shape"):
        easy_ep_score(IDS, GATES, NORMS, [1.0], 4)
    with pytest.raises(ValueError, match=r"ids\[0, 1\] is 1"):
        frequency_score(IDS, 1)


def test_mixed_domains():
    np.testing.assert_allclose(mix_domains([(4, 1, 1), (1, 1, 8)]), [0.383333, 0.133333, 0.483333], atol=1e-6)
    # A layer that one domain never scored counts as zero, not as NaN.
    np.testing.assert_allclose(mix_domains([(0, 0), (1, 3)]), [0.125, 0.375])


def test_outliers_and_blocks():
    assert outlier_score([[1, -1], [3, -1], [1, -1], [1, 1]]) == pytest.approx(2.0)
    assert outlier_score(np.zeros((3, 2))) == 0
    assert block_importance([[1, 0], [0, 2]], [[3, 0], [2, 0]]) == pytest.approx(0.5)


def test_online_dropping():
    found = online_dropping([(0.6, 0.4), (0.9, 0.1), (0.7, 0.3), (0.55, 0.45)])
    assert found.mu == pytest.approx(0.547619, abs=1e-6)
    assert found.dropped.tolist() == [False, True, True, False]
    assert online_dropping([(0.6, 0.4), (0.9, 0.1)], mu=0).dropped.tolist() == [False, False]


def test_token_importance_is_a_mean_over_later_tokens_only():
    attention = np.array([[1, 0, 0], [0.4, 0.6, 0], [0.2, 0.3, 0.5]])
    np.testing.assert_allclose(token_importance([10, 20, 30], attention), [10 * 0.3, 20 * 0.3, 0])
    heads = np.stack([attention, np.eye(3)])
    np.testing.assert_allclose(token_importance([10, 20, 30], heads), [1.5, 3, 0])


def test_calibration_sigma():
    assert calibration_sigma([[0.5, 0.25, 0.125, 0.125], [0.25] * 4]) == pytest.approx(0.0883883, abs=1e-7)
    # Counts and shares say the same.
    assert calibration_sigma([[4, 2, 1, 1], [9] * 4]) == pytest.approx(0.0883883, abs=1e-7)


def test_each_step_of_the_picker_is_the_best_that_there_is():
    rng = np.random.default_rng(0)
    counts, tokens = rng.poisson(3, (7, 2, 4)), np.array([5, 5, 5, 0, 5, 5, 5])
    found = balanced_subset(counts, tokens, 4)
    taken: list[int] = []
    for at, sigma in zip(found.picked, found.sigma, strict=True):
        by_hand = {
            p: calibration_sigma(counts[[*taken, p]].sum(0)) for p in range(7) if p not in taken and tokens[p]
        }
        assert sigma == pytest.approx(min(by_hand.values()))
        assert by_hand[int(at)] == pytest.approx(sigma)
        taken.append(int(at))
    assert 3 not in taken
    with pytest.raises(ValueError, match="only 6 prompts have tokens"):
        balanced_subset(counts, tokens, 7)

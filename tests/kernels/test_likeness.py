"""Likeness of experts, clusters and merges: hand-worked examples, enumeration, and the exact identity of two merges."""

from itertools import product

import numpy as np
import pytest

from moescope.kernels.likeness import (
    energy_at_rank,
    expert_clusters,
    linkage,
    merged,
    output_similarity,
    row_cosine,
    similarity_within,
    subspace_merged,
)

OUTPUTS = np.array([[[1, 0], [0, 1]], [[2, 0], [0, 3]], [[0, 1], [1, 0]], [[1, 1], [1, 1]]])


def test_similarity_of_the_hand_example():
    near = output_similarity(OUTPUTS)
    assert near[0, 1] == pytest.approx(1)
    assert near[0, 2] == pytest.approx(0)
    np.testing.assert_allclose(near[3, :3], np.sqrt(0.5))


def test_a_zero_output_is_like_nothing():
    near = output_similarity([[[1.0, 0], [0, 0]], [[1, 0], [1, 0]]])
    assert near[0, 1] == pytest.approx(0.5)
    assert near[0, 0] == pytest.approx(0.5)


def test_router_rows():
    np.testing.assert_allclose(row_cosine([[1, 0], [0, 2], [3, 3]])[2], [np.sqrt(0.5), np.sqrt(0.5), 1])


def test_clusters_of_the_hand_example():
    near = output_similarity(OUTPUTS)
    assert expert_clusters(near, 3).tolist() == [0, 0, 1, 2]
    assert expert_clusters(near, 2).tolist() == [0, 0, 1, 1]
    assert expert_clusters(near, 4).tolist() == [0, 1, 2, 3]
    assert len(linkage(near)) == 3


def _best_within(near, n):
    choices = (c for c in product(range(n), repeat=len(near)) if len(set(c)) == n)
    return max(similarity_within(near, c) for c in choices)


@pytest.mark.parametrize("seed", range(6))
def test_clusters_that_stand_apart_are_found_and_are_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    truth = rng.permutation([0, 0, 1, 1, 2, 2])
    centres = np.eye(3)[truth]
    near = output_similarity(centres[:, None] + 0.1 * rng.normal(size=(6, 8, 3)))
    found = expert_clusters(near, 3)
    assert (found[:, None] == found).tolist() == (truth[:, None] == truth).tolist()
    assert similarity_within(near, found) == pytest.approx(_best_within(near, 3))


def test_equal_experts_still_make_as_many_clusters_as_asked_for():
    assert sorted(np.bincount(expert_clusters(np.ones((5, 5)), 3)).tolist()) in ([1, 2, 2], [1, 1, 3])


def test_merge_is_the_mean_by_frequency_and_the_untruncated_subspace_merge_equals_it():
    weights = np.random.default_rng(1).normal(size=(3, 5, 4))
    whole = merged(weights, [1, 2, 1])
    np.testing.assert_allclose(whole, (weights[0] + 2 * weights[1] + weights[2]) / 4)
    np.testing.assert_allclose(subspace_merged(weights, [1, 2, 1]), whole, atol=1e-12)
    # Truncated, it is another matrix: the identity above does not hold for any rank.
    assert np.abs(subspace_merged(weights, [1, 2, 1], rank=2) - whole).max() > 1e-3
    np.testing.assert_allclose(merged(weights, [0, 0, 0]), weights.mean(0))


def test_energy():
    np.testing.assert_allclose(energy_at_rank([[4, 0], [0, 3]], [1, 2]), [0.64, 1])
    stack = np.random.default_rng(2).normal(size=(3, 4, 6))
    s = np.linalg.svd(stack.reshape(12, 6), compute_uv=False) ** 2
    np.testing.assert_allclose(energy_at_rank(stack, np.arange(7)), np.r_[0, np.cumsum(s)] / s.sum())
    assert energy_at_rank(np.zeros((2, 2)), 1) == 0

"""MoE-X: the score of an expert goes with the sparsity of its activations."""

import math

import pytest
import torch

from moescope.sample_data.gallery.relu_experts import sparsity_scores

A = [[2.0, 0], [0, 2], [1, 1], [1, 1]]
B = [[-2.0, 0], [0, -2], [-1, -1], [1, 1]]


def test_the_sparse_expert_of_two_is_preferred():
    """By hand, x = (1, 1): A has mean (1, 1) and variance (.5, .5), so Φ(−2 / 1); B has mean (−.5, −.5) and variance
    (1.25, 1.25), so Φ(1 / √2.5). All four neurons of A are active, one of B."""
    weights, x = torch.tensor([A, B]), torch.ones(1, 2)
    score_a, score_b = sparsity_scores(x, weights)[0].tolist()
    assert score_a == pytest.approx(0.5 * math.erfc(2 / math.sqrt(2)), abs=1e-6)
    assert score_b == pytest.approx(0.5 * math.erfc(-1 / math.sqrt(2.5) / math.sqrt(2)), abs=1e-6)
    assert ((weights @ x[0]) > 0).sum(1).tolist() == [4, 1]
    assert score_b > score_a


def test_score_and_sparsity_go_together_in_the_trained_model(made):
    found = made("relu_experts").manifest.settings["measured"]["correlation_of_score_and_minus_active"]
    assert sorted(found) == ["0", "1"]
    assert all(layer["low"] > 0 for layer in found.values())

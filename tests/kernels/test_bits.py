"""Bits under a budget: the hand-worked example, and enumeration of all choices of small cases."""

from itertools import product

import numpy as np
import pytest

from moescope.kernels.bits import (
    allocate_bits,
    bits_by_rank,
    budget_range,
    mc_moe_cost,
    round_to_nearest,
    solve_bits,
)

PHI, W = [0.4, 0.3, 0.2, 0.1], [0.30, 0.34, 0.20, 0.16]
EPS = [[9, 4, 1], [20, 6, 2], [8, 5, 3], [40, 10, 4]]


@pytest.mark.parametrize(
    ("budget", "bits", "cost"),
    [(7, [2, 3, 1, 1], 0.780967), (8, [2, 3, 1, 2], 0.588967), (9, [3, 3, 1, 2], 0.391786)],
)
def test_the_hand_example(budget, bits, cost):
    found = allocate_bits(mc_moe_cost(PHI, W, EPS), budget)
    assert found.bits.tolist() == bits
    assert found.cost == pytest.approx(cost, abs=1e-6)


def _cheapest(cost, budget, bits, at_least, layers):
    best = np.inf
    for choice in product(range(len(bits)), repeat=len(cost)):
        widths = np.array(bits)[list(choice)]
        each = all(w in widths[layers == layer] for layer in set(layers.tolist()) for w in at_least)
        if widths.sum() <= budget and each:
            best = min(best, cost[np.arange(len(cost)), list(choice)].sum())
    return best


@pytest.mark.parametrize("seed", range(12))
def test_no_choice_of_a_small_case_is_cheaper(seed):
    rng = np.random.default_rng(seed)
    layers = np.repeat([0, 1], 3)
    bits, at_least = [(1, 2, 3), (2, 4), (2, 3, 4)][seed % 3], [(2,), (), (2, 3)][seed % 3]
    cost = -np.sort(-rng.gamma(1, 1, (6, len(bits))), axis=1) * 10.0 ** rng.integers(-6, 6)
    least, most = budget_range(layers, bits, at_least)
    budget = int(rng.integers(least, most + 1))
    found = solve_bits(cost, budget, bits, at_least, layers=layers)
    assert found.cost == pytest.approx(_cheapest(cost, budget, bits, at_least, layers), rel=1e-6)
    assert found.gap == pytest.approx(0, abs=1e-6)
    assert found.bits.sum() <= budget


def test_a_budget_that_can_not_be_met_is_refused_with_what_can():
    cost = mc_moe_cost(PHI, W, EPS)
    with pytest.raises(ValueError, match="4 experts take 7 to 11 bits"):
        allocate_bits(cost, 6)
    with pytest.raises(ValueError, match="can't be met"):
        allocate_bits(cost, float("nan"))
    with pytest.raises(ValueError, match="asks for 4 bits"):
        allocate_bits(cost, 8, at_least=(4,))
    with pytest.raises(ValueError, match="4 experts take 8 to 16 bits"):
        bits_by_rank(PHI, 7)


def test_by_rank_gives_the_wide_ones_to_the_largest_scores():
    assert bits_by_rank([0.1, 0.4, 0.2, 0.3], 13).tolist() == [2, 4, 2, 4]
    assert bits_by_rank([0.1, 0.4], 8).tolist() == [4, 4]


def test_rounding_errs_by_half_a_step_at_most_and_less_with_more_bits():
    weight = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float32)
    errors = []
    for bits in (1, 2, 3, 4, 8):
        rounded = round_to_nearest(weight, bits, group=16)
        for start in range(0, 50, 16):
            block = weight[:, start : start + 16]
            step = np.ptp(block, axis=1, keepdims=True) / (2**bits - 1)
            assert (np.abs(rounded[:, start : start + 16] - block) <= step / 2 + 1e-6).all()
            assert all(len(np.unique(row)) <= 2**bits for row in rounded[:, start : start + 16])
        errors.append(float(np.abs(rounded - weight).mean()))
    assert errors == sorted(errors, reverse=True)
    np.testing.assert_array_equal(round_to_nearest(np.full((2, 3), 7.0), 2), np.full((2, 3), 7.0))

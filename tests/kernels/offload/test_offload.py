"""Predictive caches, rings and regrouping: hand-worked examples, and simulations written out as loops."""

from itertools import permutations

import numpy as np
import pytest

from moescope.kernels.offload import (
    allocate_slots,
    layer_frequency,
    predictive_cache,
    predictive_cache_run,
    recall,
    regroup,
    ring_schedule,
    same_as_previous_token,
    transition,
    union_sizes,
)


def test_slots_are_filled_from_the_earliest_layer():
    assert allocate_slots([3, 2], 4).tolist() == [3, 1]
    assert allocate_slots([3, 2], 0).tolist() == [0, 0]
    assert allocate_slots([3, 2], 9).tolist() == [3, 2]


def test_a_perfect_prediction_hits_as_far_as_there_are_slots():
    ids = np.array([[[0, 1], [2, 3]], [[1, 2], [0, 3]]])
    assert predictive_cache(ids, ids, 4) == (8, 0)
    assert predictive_cache(ids, ids, 3) == (6, 2)
    assert predictive_cache(np.full_like(ids, -1), ids, 4) == (0, 8)


def _simulated(predicted, ids, slots):
    hits, misses, loads, held = 0, 0, 0, set()
    for expected, chosen in zip(predicted, ids, strict=True):
        wanted = []
        for layer, experts in enumerate(expected):
            wanted += [(layer, e) for e in dict.fromkeys(experts.tolist()) if e >= 0]
        now = set(wanted[:slots])
        loads += len(now - held)
        held = now
        for layer, experts in enumerate(chosen):
            for e in experts:
                if e >= 0:
                    hit = (layer, e) in held
                    hits, misses, loads = hits + hit, misses + (not hit), loads + (not hit)
    return hits, misses, loads


@pytest.mark.parametrize("slots", [0, 1, 3, 5, 12])
def test_the_cache_against_a_simulation(slots):
    rng = np.random.default_rng(slots)
    predicted, ids = rng.integers(-1, 4, (30, 3, 3)), rng.integers(-1, 4, (30, 3, 2))
    ids[..., 1] = np.where(ids[..., 1] == ids[..., 0], -1, ids[..., 1])
    run = predictive_cache_run(predicted, ids, slots)
    assert (run.hits.sum(), run.misses.sum(), run.loads) == _simulated(predicted, ids, slots)
    assert predictive_cache(predicted, ids, slots) == (run.hits.sum(), run.misses.sum())


def test_predictors():
    fit = np.array([[[0], [1]], [[0], [1]], [[2], [3]], [[0], [3]]])
    ids = np.array([[[0], [1]], [[2], [3]], [[1], [0]]])
    assert same_as_previous_token(ids, [0, 2])[:, :, 0].tolist() == [[-1, -1], [0, 1], [-1, -1]]
    assert layer_frequency(fit, 2, 4, 1)[:, :, 0].tolist() == [[0, 1], [0, 1]]
    # After 0 comes 1 twice and 3 once, after 2 comes 3; 1 was never seen: the layer's own favourite.
    assert transition(fit, ids, 4)[:, :, 0].tolist() == [[0, 1], [0, 3], [0, 1]]
    np.testing.assert_allclose(recall(transition(fit, ids, 4), ids), [[1, 1], [0, 1], [0, 0]])
    assert np.isnan(recall([[[0]]], [[[-1]]])).all()


@pytest.mark.parametrize(
    ("compute", "totals", "stalls"),
    [(1, [16, 10, 8, 6], [10, 4, 2, 0]), (2, [22, 12, 12, 12], [10, 0, 0, 0])],
)
def test_the_ring(compute, totals, stalls):
    found = [ring_schedule([compute] * 6, [2] * 6, slots) for slots in (1, 2, 3, 4)]
    assert [one.total for one in found] == totals
    assert [one.stall for one in found] == stalls


def test_regrouping_the_hand_example():
    paths = [{0, 1}, {2, 3}, {0, 1}, {2, 3}]
    assert sum(union_sizes(paths, [[0, 1], [2, 3]])) == 8
    assert sum(union_sizes(paths, regroup(paths, 2))) == 4


@pytest.mark.parametrize("seed", range(10))
def test_regrouping_keeps_every_sequence_and_is_never_worse_than_in_order(seed):
    rng = np.random.default_rng(seed)
    paths = [set(rng.permutation(6)[: rng.integers(1, 4)].tolist()) for _ in range(5)]
    groups = regroup(paths, 2)
    assert sorted(s for group in groups for s in group) == list(range(5))
    assert [len(group) for group in groups] == [2, 2, 1]
    total = sum(union_sizes(paths, groups))
    ways = [[order[:2], order[2:4], order[4:]] for order in permutations(range(5))]
    assert total <= sum(union_sizes(paths, [[0, 1], [2, 3], [4]]))
    assert total >= min(sum(union_sizes(paths, way)) for way in ways)


def test_shapes_and_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="differ in tokens or layers"):
        predictive_cache(np.zeros((2, 2, 1), int), np.zeros((2, 3, 1), int), 1)
    with pytest.raises(ValueError, match="slots must be"):
        ring_schedule([1], [1], 0)
    with pytest.raises(ValueError, match="batch must be"):
        regroup([{0}], 0)

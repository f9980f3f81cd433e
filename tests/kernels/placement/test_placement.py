"""Clusters, devices, costs and moves: hand-worked examples and enumeration of all choices of small cases."""

from itertools import permutations, product

import numpy as np
import pytest

from moescope.kernels.placement import (
    balancedness,
    cluster_experts,
    cluster_traffic,
    contiguous,
    device_loads,
    greedy,
    map_clusters,
    placement_cost,
    random_placement,
    resize_moves,
    solve_clusters,
    solve_mapping,
)

R = [[25, 10, 3, 2], [3, 4, 15, 8], [2, 3, 10, 5], [6, 3, 0, 1]]


def test_the_hand_example_of_a_placement():
    clusters = cluster_experts([40, 30, 20, 10], 2)
    assert clusters.tolist() == [0, 1, 1, 0]
    assert solve_clusters([40, 30, 20, 10], 2).deviation == 0
    cost = placement_cost(R, clusters, 2)
    assert (cost.total, cost.remote, cost.remote_share, cost.largest_link.tolist()) == (100, 34, 0.34, [18])
    plain = placement_cost(R, contiguous(4, 2), 2)
    assert (plain.remote, plain.largest_link.tolist()) == (42, [28])
    assert device_loads([40, 30, 20, 10], [0, 1, 2, 3], 2).tolist() == [70, 30]


def test_loads_are_split_over_replicas_and_an_expert_without_a_place_is_named():
    assert device_loads([8, 4], [0, 1, 0, 0], 2).tolist() == [8 / 3 + 4, 16 / 3]
    assert balancedness([8, 4, 2, 2]) == 0.5
    assert balancedness([0, 0]) == 0
    with pytest.raises(ValueError, match="expert 1 of row 0"):
        device_loads([8, 4], [0, 0], 2)


def test_plain_placements():
    assert contiguous(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert greedy([1, 9, 8, 2], 2).tolist() == [0, 0, 1, 1]
    drawn = random_placement(8, 4, np.random.default_rng(0))
    assert np.bincount(drawn).tolist() == [2, 2, 2, 2]
    with pytest.raises(ValueError, match="5 devices are more than 4 experts"):
        contiguous(4, 5)


def _least_deviation(load, clusters):
    size = len(load) // clusters
    return min(
        np.abs(np.bincount(c, load, clusters) - sum(load) / clusters).sum()
        for c in product(range(clusters), repeat=len(load))
        if (np.bincount(c, minlength=clusters) == size).all()
    )


@pytest.mark.parametrize("seed", range(8))
def test_no_clusters_of_a_small_case_are_more_even(seed):
    rng = np.random.default_rng(seed)
    clusters = 2 + seed % 2
    load = rng.integers(1, 100, 6)
    found = solve_clusters(load, clusters)
    assert found.deviation == pytest.approx(_least_deviation(load, clusters), abs=1e-6)
    assert found.gap == pytest.approx(0, abs=1e-6)
    assert np.bincount(found.cluster).tolist() == [6 // clusters] * clusters


def _link(traffic, a, b, bandwidth):
    pairs = product(range(len(traffic)), repeat=2)
    return max([traffic[c][d] / bandwidth[a[c]][b[d]] for c, d in pairs if a[c] != b[d]] + [0])


def _least_link(traffic, bandwidth):
    """Over all devices of all layers: the least sum of largest links."""
    ways = list(permutations(range(traffic.shape[1])))
    reach = dict.fromkeys(ways, 0.0)
    for layer in traffic:
        reach = {b: min(cost + _link(layer, a, b, bandwidth) for a, cost in reach.items()) for b in ways}
    return min(reach.values())


@pytest.mark.parametrize("seed", range(6))
def test_no_devices_of_a_small_case_have_a_smaller_busiest_link(seed):
    rng = np.random.default_rng(seed)
    traffic = rng.integers(0, 50, (2, 3, 3))
    even = solve_mapping(traffic)
    assert even.cost == pytest.approx(_least_link(traffic, np.ones((3, 3))))
    bandwidth = rng.choice([1.0, 4.0], (3, 3))
    uneven = solve_mapping(traffic, bandwidth)
    assert uneven.cost == pytest.approx(_least_link(traffic, bandwidth))
    for found in (even, uneven):
        assert np.sort(found.device, axis=1).tolist() == [[0, 1, 2]] * 3


def test_the_mapping_of_the_hand_example():
    traffic = cluster_traffic(R, [0, 1, 1, 0], [0, 1, 1, 0], 2)
    assert traffic.tolist() == [[34, 16], [18, 32]]
    assert map_clusters(traffic).tolist() == [[0, 1], [0, 1]]
    assert solve_mapping(traffic).cost == 18


def _fewest_moves(now, devices):
    sizes = (len(now) // devices, -(-len(now) // devices))
    choices = (
        c
        for c in product(range(devices), repeat=len(now))
        if all(sizes[0] <= n <= sizes[1] for n in np.bincount(c, minlength=devices))
    )
    return [(sum(a != b for a, b in zip(c, now, strict=True)), c) for c in choices]


@pytest.mark.parametrize(("now", "devices"), [([0, 0, 0, 1, 1, 1], 3), ([0, 1, 2, 0, 1, 2], 2), ([0] * 6, 4)])
def test_no_resize_of_a_small_case_moves_fewer_or_is_more_even(now, devices):
    load = np.array([9.0, 1, 4, 7, 3, 2])
    ways = _fewest_moves(now, devices)
    fewest = min(moves for moves, _ in ways)
    least = min(
        np.abs(np.bincount(c, load, devices) - load.sum() / devices).sum() for m, c in ways if m == fewest
    )
    found = resize_moves(now, devices, load)
    assert found.moves == fewest == (found.device != now).sum()
    deviation = np.abs(np.bincount(found.device, load, devices) - load.sum() / devices).sum()
    assert deviation == pytest.approx(least)


@pytest.mark.parametrize("devices", [7, 9, 16])
def test_loads_of_a_large_resize_are_even_without_the_program(devices):
    load = np.sort(np.random.default_rng(0).lognormal(0, 0.5, 256))
    now = np.arange(256) % 8
    found = resize_moves(now, devices, load, seconds=0)
    fewest = 256 - np.minimum(np.bincount(found.device, minlength=16)[:8], 32).sum()
    assert found.moves == (found.device != now).sum() == fewest
    loads = np.bincount(found.device, load, devices)
    sizes = np.bincount(found.device)
    assert sizes.max() - sizes.min() <= 1
    assert loads.mean() / loads.max() > 0.9


def test_the_resize_of_the_hand_example():
    found = resize_moves([0] * 4 + [1] * 4, 3)
    assert found.moves == 2 == (found.device != np.repeat([0, 1], 4)).sum()
    with pytest.raises(ValueError, match="9 devices are more than 8 experts"):
        resize_moves([0] * 8, 9)

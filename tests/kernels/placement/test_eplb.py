"""EPLB: the example that its authors publish, and the algorithm written out as plain loops."""

import hashlib
import json

import numpy as np
import pytest

from moescope.kernels.placement import balancedness, device_loads, replicate_and_pack

PUBLISHED = [
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
]


def test_the_published_example():
    found = replicate_and_pack(PUBLISHED, num_replicas=16, num_groups=4, num_nodes=2, num_gpus=8)
    assert found.physical_to_logical.tolist() == [
        [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
        [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
    ]


@pytest.mark.parametrize(
    ("sizes", "digest"),
    [
        ((64, 1, 1, 8), "5323e55eb19ee96e"),
        ((80, 1, 1, 8), "a12e69443eae6aeb"),
        ((96, 8, 2, 16), "df5a23edc440a8b9"),
        ((96, 8, 4, 32), "abcd1b237cdbd945"),
        ((72, 3, 2, 8), "ad7ef9680a12ecb4"),
    ],
)
def test_devices_hold_what_the_released_code_gives_them(sizes, digest):
    """Digests of the device sets that `rebalance_experts` of deepseek-ai/EPLB returned for this matrix; loads are
    distinct, as its sort is not stable."""
    load = np.random.default_rng(7).permutation(10_000)[:256].reshape(4, 64).astype(float) ** 2
    places = np.asarray(replicate_and_pack(load, *sizes).physical_to_logical)
    devices = [[sorted(one) for one in row.reshape(sizes[3], -1).tolist()] for row in places]
    assert hashlib.sha256(json.dumps(devices).encode()).hexdigest()[:16] == digest


def _pack(load, packs):
    """Items of each pack, largest first into the lightest with room."""
    made = [[] for _ in range(packs)]
    if len(load) == packs:
        return [[i] for i in range(packs)]
    for item in sorted(range(len(load)), key=lambda i: -load[i]):
        room = [p for p in made if len(p) < len(load) // packs]
        min(room, key=lambda p: sum(load[i] for i in p)).append(item)
    return made


def _by_loops(load, replicas, groups, nodes, gpus):
    if groups % nodes:
        groups = nodes = 1
    size = len(load) // groups
    group_load = [sum(load[g * size : (g + 1) * size]) for g in range(groups)]
    devices = []
    for node in _pack(group_load, nodes):
        experts = [g * size + i for g in node for i in range(size)]
        count = dict.fromkeys(experts, 1)
        places = list(experts)
        while len(places) < replicas // nodes:
            busiest = max(experts, key=lambda e: load[e] / count[e])
            count[busiest] += 1
            places.append(busiest)
        packed = _pack([load[e] / count[e] for e in places], gpus // nodes)
        devices += [sorted(places[i] for i in device) for device in packed]
    return devices


@pytest.mark.parametrize(
    ("experts", "replicas", "groups", "nodes", "gpus"),
    [
        (8, 8, 1, 1, 4),
        (8, 12, 1, 1, 4),
        (16, 24, 4, 2, 8),
        (16, 16, 3, 2, 4),
        (12, 16, 4, 2, 8),
        (8, 8, 2, 2, 8),
    ],
)
def test_equal_to_plain_loops_as_sets_of_experts_per_device(experts, replicas, groups, nodes, gpus):
    if experts % groups:
        groups = 1
    rng = np.random.default_rng(experts + replicas)
    load = rng.gamma(1, 100, (3, experts))
    found = replicate_and_pack(load, replicas, groups, nodes, gpus)
    for row, load_E in zip(found.physical_to_logical, load, strict=True):
        devices = [sorted(device) for device in row.reshape(gpus, -1).tolist()]
        assert devices == _by_loops(load_E.tolist(), replicas, groups, nodes, gpus)


def test_the_three_tables_say_the_same_and_the_hierarchy_holds():
    rng = np.random.default_rng(3)
    load = rng.gamma(1, 100, (2, 16))
    found = replicate_and_pack(load, 24, 4, 2, 8)
    for layer in range(2):
        for expert in range(16):
            places = found.logical_to_physical[layer, expert]
            places = places[places >= 0]
            assert (found.physical_to_logical[layer, places] == expert).all()
            assert len(places) == found.replica_counts[layer, expert] >= 1
            # All replicas of a group lie in one node of 12 places.
            group = [e for e in range(16) if e // 4 == expert // 4]
            nodes = {int(p) // 12 for e in group for p in found.logical_to_physical[layer, e] if p >= 0}
            assert len(nodes) == 1


def test_replicas_help_where_one_expert_is_busy():
    load = np.array([100.0, 10, 10, 10])
    alone = replicate_and_pack(load, 4, 1, 1, 4)
    more = replicate_and_pack(load, 8, 1, 1, 4)
    before, after = (balancedness(device_loads(load, r.physical_to_logical[0], 4)) for r in (alone, more))
    assert before == pytest.approx(32.5 / 100)
    assert after > 0.8


def test_numbers_that_do_not_divide_are_named():
    for arguments, said in (
        ((4, 3, 1, 1, 1), "too few"),
        ((4, 5, 1, 1, 2), "5 places do not divide over 2 devices"),
        ((4, 4, 3, 1, 2), "4 experts do not divide into 3 groups"),
        ((4, 4, 2, 2, 3), "3 devices do not divide over 2 nodes"),
    ):
        experts, *rest = arguments
        with pytest.raises(ValueError, match=said):
            replicate_and_pack(np.ones(experts), *rest)

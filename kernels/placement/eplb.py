"""Replicas of busy experts, packed onto devices: the policies of DeepSeek's EPLB.

    1. groups of experts go to nodes, evenly loaded (hierarchical policy only)
    2. in each node the expert with the most load per replica gets one more, until all places are taken
    3. replicas go to the node's devices, evenly loaded

Source: github.com/deepseek-ai/EPLB, whose results these are as sets of experts per device; the order within a device
follows a sort that is not stable there.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, check_size


class Replicas(NamedTuple):
    """Which expert each physical place holds; L layers, R places, E experts."""

    physical_to_logical: np.ndarray
    """(L, R): places r · R/G .. (r + 1) · R/G − 1 lie on device r of G."""
    logical_to_physical: np.ndarray
    """(L, E, most replicas): places of each expert, −1 where it has no more."""
    replica_counts: np.ndarray
    """(L, E)."""


def replicate_and_pack(
    load: ArrayLike, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
) -> Replicas:
    """Places of experts and their replicas, so that devices are evenly loaded.

    Args:
        load: (L, E) tokens of each expert, or anything proportional to it; (E,) for one layer.
        num_replicas: R, places over all devices; E and more.
        num_groups: groups of experts of a group-limited router, 1 without. Where they divide evenly over the nodes, the
            hierarchical policy keeps a group within one node; else the global policy is used.
        num_nodes, num_gpus: of the whole cluster.
    Raises:
        ValueError: numbers that do not divide each other, fewer places than experts.
    """
    load_LE = np.atleast_2d(as_amounts(load, "load"))
    experts = load_LE.shape[1]
    if num_groups % num_nodes:
        num_groups = num_nodes = 1
        nodes_of_gpus = 1
    else:
        nodes_of_gpus = num_nodes
    _check(experts, num_replicas, num_groups, nodes_of_gpus, num_gpus)
    node_LN, at_LN = balanced_packing(load_LE.reshape(len(load_LE), num_groups, -1).sum(2), num_nodes)
    size = experts // num_groups
    # Experts in the order of their nodes: place i of `order` holds expert order[i].
    first_LN = (node_LN * (num_groups // num_nodes) + at_LN) * size
    place_LE = (first_LN[:, :, None] + np.arange(size)).reshape(len(load_LE), experts)
    order_LE = np.argsort(place_LE, axis=1)
    on_node = np.take_along_axis(load_LE, order_LE, 1).reshape(-1, experts // num_nodes)
    replica, _, count = _replicated(on_node, num_replicas // num_nodes)
    share = np.take_along_axis(on_node / count, replica, 1)
    gpu, slot = balanced_packing(share, num_gpus // num_nodes)
    physical = gpu * (num_replicas // num_gpus) + slot
    at = np.take_along_axis(replica, np.argsort(physical, axis=1), 1)
    at = at.reshape(len(load_LE), num_nodes, -1) + np.arange(0, experts, experts // num_nodes)[:, None]
    found = np.take_along_axis(order_LE, at.reshape(len(load_LE), -1), 1)
    return Replicas(found, *_places(found, experts))


def balanced_packing(load: np.ndarray, packs: int) -> tuple[np.ndarray, np.ndarray]:
    """Items in packs of equal size, largest first into the lightest pack that has room: pack and place, (N, items)."""
    rows, items = load.shape
    room = items // packs
    pack, place = np.zeros((2, rows, items), np.int64)
    if room == 1:
        return np.tile(np.arange(items), (rows, 1)), place
    order = np.argsort(-load, axis=1, kind="stable")
    # All rows at once: the loop runs over places in the order of load, not over rows.
    weight, filled, row = np.zeros((rows, packs)), np.zeros((rows, packs), np.int64), np.arange(rows)
    for item in order.T:
        best = np.where(filled < room, weight, np.inf).argmin(1)
        pack[row, item], place[row, item] = best, filled[row, best]
        weight[row, best] += load[row, item]
        filled[row, best] += 1
    return pack, place


def _replicated(load: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expert of each place, which of its replicas that is, and replicas of each expert."""
    rows, experts = load.shape
    expert, rank = np.tile(np.arange(places), (rows, 1)), np.zeros((rows, places), np.int64)
    count, row = np.ones((rows, experts), np.int64), np.arange(rows)
    for place in range(experts, places):
        # One expert for each row of load: a further copy goes where the load per copy is largest.
        busiest = (load / count).argmax(1)
        expert[:, place], rank[:, place] = busiest, count[row, busiest]
        count[row, busiest] += 1
    return expert, rank, count


def _places(physical_LR: np.ndarray, experts: int) -> tuple[np.ndarray, np.ndarray]:
    layers, places = physical_LR.shape
    count = np.stack([np.bincount(row, minlength=experts) for row in physical_LR])
    where = np.full((layers, experts, count.max()), -1)
    # By place, all layers (L,) at once: where[l, e, i] is the i-th place of expert e in layer l.
    seen, row = np.zeros((layers, experts), np.int64), np.arange(layers)
    for place in range(places):
        expert = physical_LR[:, place]
        where[row, expert, seen[row, expert]] = place
        seen[row, expert] += 1
    return where, count


def _check(experts: int, replicas: int, groups: int, nodes: int, gpus: int) -> None:
    for num, name in (
        (replicas, "num_replicas"),
        (groups, "num_groups"),
        (nodes, "num_nodes"),
        (gpus, "num_gpus"),
    ):
        check_size(num, name)
    if replicas < experts:
        raise ValueError(f"{replicas} places are too few for {experts} experts")
    for whole, part, said in (
        (experts, groups, f"{experts} experts do not divide into {groups} groups"),
        (gpus, nodes, f"{gpus} devices do not divide over {nodes} nodes"),
        (replicas, gpus, f"{replicas} places do not divide over {gpus} devices"),
    ):
        if whole % part:
            raise ValueError(said)

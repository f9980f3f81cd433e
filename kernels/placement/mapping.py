"""Clusters of consecutive layers on devices, so that little goes over the busiest link; and what a placement costs.

Links between layers l and l + 1 are directed: what tokens carry from device a to device b. What stays is free.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, as_real, check_size, divide
from .._milp import Rows, gap_of, solve


class SolvedMapping(NamedTuple):
    """A device of each cluster of each layer."""

    device: np.ndarray
    """(L + 1, C)."""
    cost: float
    """Sum over layer pairs of the largest directed link, over bandwidth."""
    gap: float
    """Share of the cost that a better choice could save at most; 0 is optimal."""


class PlacementCost(NamedTuple):
    """Transitions from each layer to the next under a placement."""

    total: float
    remote: float
    """Of them, those between different devices."""
    remote_share: float
    largest_link: np.ndarray
    """(L,) the largest sum over one directed pair of devices, for each pair of layers."""


def cluster_traffic(
    transitions: ArrayLike, cluster_a: ArrayLike, cluster_b: ArrayLike, num: int
) -> np.ndarray:
    """(C, C) transitions between clusters, of (Ea, Eb) transitions between experts."""
    counts = as_amounts(transitions, "transitions")
    a, b = (np.eye(num)[as_real(cluster, "cluster").astype(np.int64)] for cluster in (cluster_a, cluster_b))
    return a.T @ counts @ b


def map_clusters(
    traffic: ArrayLike, bandwidth: ArrayLike | None = None, *, seconds: float = 10.0
) -> np.ndarray:
    """(L + 1, C) device of each cluster; see `solve_mapping`."""
    return solve_mapping(traffic, bandwidth, seconds=seconds).device


def solve_mapping(
    traffic: ArrayLike, bandwidth: ArrayLike | None = None, *, seconds: float = 10.0
) -> SolvedMapping:
    """Devices of clusters, one to one in each layer, with the least sum of largest directed links.

    Args:
        traffic: (L, C, C) transitions from clusters of a layer to those of the next, or (C, C) for one pair.
        bandwidth: (C, C) of each directed link; all alike where None.
        seconds: time limit of the solver; used with `bandwidth` only.
    Returns:
        The first layer's clusters keep their own numbers where all links are alike.
        [[34,16],[18,32]] → identity, 18.
    Method:
        With links alike a layer's cost depends only on which cluster follows which on its device. Allowing traffic t,
        every larger entry must stay on its device, so the least t is the smallest for which these entries name each
        row and column once: exact, without a search. With a bandwidth matrix, a program for HiGHS.
    Source:
        MoETuner, arXiv 2502.06643.
    """
    traffic_LCC = as_amounts(traffic, "traffic")
    traffic_LCC = traffic_LCC[None] if traffic_LCC.ndim == 2 else traffic_LCC
    if traffic_LCC.ndim != 3 or traffic_LCC.shape[1] != traffic_LCC.shape[2]:
        raise ValueError(f"traffic must have shape (L, C, C), got {traffic_LCC.shape}")
    alike = _map_alike(traffic_LCC)
    if bandwidth is None:
        return SolvedMapping(alike, _cost(traffic_LCC, alike, None), 0.0)
    speed = as_amounts(bandwidth, "bandwidth")
    if speed.shape != traffic_LCC.shape[1:] or (speed[~np.eye(len(speed), dtype=bool)] <= 0).any():
        raise ValueError("bandwidth must be (C, C), positive between different devices")
    device, bound = _program(traffic_LCC, speed, seconds)
    if device is None or _cost(traffic_LCC, device, speed) > _cost(traffic_LCC, alike, speed):
        device = alike
    cost = _cost(traffic_LCC, device, speed)
    return SolvedMapping(device, cost, gap_of(cost, bound))


def placement_cost(transitions: ArrayLike, device_of_expert: ArrayLike, num_devices: int) -> PlacementCost:
    """How much of what goes from layer to layer changes the device.

    Args:
        transitions: (L, E, E) counts from experts of a layer to those of the next, or (E, E) for one pair.
        device_of_expert: (L + 1, E), or (E,) for the same placement in every layer.
        num_devices: G.
    """
    counts = as_amounts(transitions, "transitions")
    counts = counts[None] if counts.ndim == 2 else counts
    devices = as_real(device_of_expert, "device_of_expert").astype(np.int64)
    if devices.ndim == 1:
        devices = np.tile(devices, (len(counts) + 1, 1))
    if devices.shape != (len(counts) + 1, counts.shape[1]):
        raise ValueError(
            f"device_of_expert must be ({len(counts) + 1}, {counts.shape[1]}), got {devices.shape}"
        )
    if devices.min() < 0 or devices.max() >= check_size(num_devices, "num_devices"):
        raise ValueError(f"device_of_expert must lie in 0 .. {num_devices - 1}")
    links = np.stack(
        [cluster_traffic(c, a, b, num_devices) for c, a, b in zip(counts, devices, devices[1:], strict=False)]
    )
    links[:, np.arange(num_devices), np.arange(num_devices)] = 0
    total, remote = float(counts.sum()), float(links.sum())
    return PlacementCost(total, remote, float(divide(remote, total)), links.max((1, 2)))


def _cost(traffic_LCC: np.ndarray, device_LC: np.ndarray, bandwidth: np.ndarray | None) -> float:
    total = 0.0
    for traffic, a, b in zip(traffic_LCC, device_LC, device_LC[1:], strict=False):
        link = np.where(a[:, None] == b, 0, traffic)
        total += (
            link / np.where(a[:, None] == b, 1, 1 if bandwidth is None else bandwidth[a[:, None], b])
        ).max()
    return float(total)


def _map_alike(traffic_LCC: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    devices = [np.arange(traffic_LCC.shape[1])]
    for traffic in traffic_LCC:
        levels = np.unique(np.r_[0, traffic.ravel()])
        low, high = 0, len(levels) - 1
        while low < high:
            middle = (low + high) // 2
            above = traffic > levels[middle]
            fits = above.sum(0).max() <= 1 and above.sum(1).max() <= 1
            low, high = (low, middle) if fits else (middle + 1, high)
        # Of all choices with that largest link, the one that keeps most on its device.
        stays = traffic + np.where(traffic > levels[low], traffic.sum() + 1, 0)
        _, follows = linear_sum_assignment(-stays)
        device = np.empty_like(devices[0])
        device[follows] = devices[-1]
        devices.append(device)
    return np.array(devices)


def _program(traffic_LCC: np.ndarray, speed: np.ndarray, seconds: float) -> tuple[np.ndarray | None, float]:
    layers, clusters = len(traffic_LCC) + 1, traffic_LCC.shape[1]
    at = np.arange(layers * clusters * clusters).reshape(layers, clusters, clusters)
    worst = at.size + np.arange(layers - 1)
    rows = Rows(at.size + layers - 1)
    for layer in at:
        for one in (*layer, *layer.T):
            rows.add(one, 1, 1, 1)
    for number, traffic in enumerate(traffic_LCC):
        for c, d in np.argwhere(traffic > 0):
            for a, b in np.argwhere(~np.eye(clusters, dtype=bool)):
                # Both there: the link carries this; one or none there: the row asks nothing.
                price = traffic[c, d] / speed[a, b]
                columns = np.array([worst[number], at[number, c, a], at[number + 1, d, b]])
                rows.add(columns, np.array([1, -price, -price]), -price, np.inf)
    cost = np.zeros(at.size + layers - 1)
    cost[worst] = 1
    found = solve(cost, rows, np.arange(len(cost)) < at.size, seconds)
    return (None if found.x is None else found.x[: at.size].reshape(at.shape).argmax(2)), found.bound

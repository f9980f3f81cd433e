"""More or fewer devices for the same experts: how few have to move."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, as_real, check_size
from .._milp import Rows, solve


class Resize(NamedTuple):
    """A new placement and what it costs to get there."""

    device: np.ndarray
    """(E,) new device of each expert."""
    moves: int
    """Experts that change their device."""


def resize_moves(
    device_of_expert: ArrayLike, new_devices: int, load: ArrayLike | None = None, *, seconds: float = 5.0
) -> Resize:
    """Experts on another number of devices: as many as possible stay, then loads are as even as can be.

    Args:
        device_of_expert: (E,) now. Devices that go are those with the highest numbers.
        new_devices: n. Every device then has ⌊E/n⌋ or ⌈E/n⌉ experts.
        load: (E,); where None, only the number of moves is minimised.
        seconds: time limit of the solver for the loads; the number of moves is always the least.
    Returns:
        8 experts on 2 devices to 3: 2 moves.
    Source:
        After ElasticMoE, arXiv 2510.02613, whose seconds of scaling a trace does not show.
    """
    now = as_real(device_of_expert, "device_of_expert").astype(np.int64)
    if now.ndim != 1 or len(now) == 0 or now.min() < 0:
        raise ValueError("device_of_expert must be (E,) numbers of devices from 0")
    if check_size(new_devices, "new_devices") > len(now):
        raise ValueError(f"{new_devices} devices are more than {len(now)} experts")
    size_G = _sizes(now, new_devices)
    stays = int(np.minimum(size_G, np.bincount(now, minlength=new_devices)[:new_devices]).sum())
    load_E = np.ones(len(now)) if load is None else as_amounts(load, "load")
    if load_E.shape != now.shape:
        raise ValueError(f"load must be ({len(now)},), got {load_E.shape}")
    device = _greedy(now, size_G, load_E)
    if load is not None:
        device = _program(now, new_devices, load_E, stays, _evened(now, device, load_E), seconds)
    return Resize(device, len(now) - stays)


def _sizes(now: np.ndarray, devices: int) -> np.ndarray:
    """(G,) experts of each device: the larger size goes to those that have most now."""
    size_G = np.full(devices, len(now) // devices)
    have = np.bincount(now, minlength=devices)[:devices]
    size_G[np.argsort(-have, kind="stable")[: len(now) % devices]] += 1
    return size_G


def _greedy(now: np.ndarray, size_G: np.ndarray, load_E: np.ndarray) -> np.ndarray:
    """Devices that are over-full give up their busiest; those go largest first to the lightest device with room."""
    device, moving = now.copy(), []
    for gone in range(len(size_G), now.max() + 1):
        moving += np.flatnonzero(now == gone).tolist()
    for at, size in enumerate(size_G):
        here = np.flatnonzero(now == at)
        moving += here[np.argsort(-load_E[here], kind="stable")[: max(0, len(here) - size)]].tolist()
    device[moving] = -1
    for expert in sorted(moving, key=lambda e: -load_E[e]):
        placed = device >= 0
        full = np.bincount(device[placed], minlength=len(size_G)) >= size_G
        weight = np.bincount(device[placed], load_E[placed], len(size_G))
        device[expert] = int(np.where(full, np.inf, weight).argmin())
    return device


def _evened(now: np.ndarray, device: np.ndarray, load_E: np.ndarray) -> np.ndarray:
    """Experts exchange their devices, two by two, while loads become more even; as many move as before.

    One of the two has moved (M of them), and the other moved too or stays where the first came from.
    """
    device, moved_M = device.copy(), np.flatnonzero(device != now)
    for _ in range(2 * len(moved_M)):
        load_G = np.bincount(device, load_E)
        gap_ME = load_G[device[moved_M], None] - load_G[device]
        less_ME = load_E[moved_M, None] - load_E
        may_ME = device[moved_M, None] != device
        may_ME &= (device != now) | (now[moved_M, None] == device)
        # Half of what the sum of squared loads of both devices falls by.
        gain_ME = np.where(may_ME, less_ME * (gap_ME - less_ME), 0)
        at, other = np.unravel_index(gain_ME.argmax(), gain_ME.shape)
        if gain_ME[at, other] <= 1e-12 * load_E.sum() ** 2:
            break
        pair = [moved_M[at], other]
        device[pair] = device[pair[::-1]]
        moved_M = np.flatnonzero(device != now)
    return device


def _program(
    now: np.ndarray, devices: int, load_E: np.ndarray, stays: int, known: np.ndarray, seconds: float
) -> np.ndarray:
    # Variables: x[e, d], 1 where expert e is on device d, then the amount by which each device is off the mean load.
    experts = len(now)
    at = np.arange(experts * devices).reshape(experts, devices)
    away = at.size + np.arange(devices)
    rows = Rows(at.size + devices)
    for row in at:
        rows.add(row, 1, 1, 1)
    scale = load_E.mean() or 1.0
    load_E = load_E / scale
    mean = load_E.sum() / devices
    for device in range(devices):
        rows.add(at[:, device], 1, experts // devices, -(-experts // devices))
        # away >= |load of the device - mean|, as two inequalities.
        columns = np.r_[at[:, device], away[device]]
        rows.add(columns, np.r_[load_E, -1], -np.inf, mean)
        rows.add(columns, np.r_[load_E, 1], mean, np.inf)
    still = now < devices
    if still.any():
        rows.add(at[still, now[still]], 1, stays, stays)
    cost = np.zeros(at.size + devices)
    cost[away] = 1
    found = solve(cost, rows, np.arange(len(cost)) < at.size, seconds).x
    options = [known] if found is None else [known, found[: at.size].reshape(at.shape).argmax(1)]
    return min(options, key=lambda one: np.abs(np.bincount(one, load_E, devices) - mean).sum())

"""What each device gets to do under a placement, and the plain placements that every other is compared with."""

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, as_real, check_size, divide
from .eplb import balanced_packing


def device_loads(load: ArrayLike, physical_to_logical: ArrayLike, num_gpus: int) -> np.ndarray:
    """Load of each device; an expert's load is split evenly over its replicas.

    Args:
        load: (E,) or (L, E).
        physical_to_logical: (R,) or (L, R) expert of each place; devices have R / G consecutive places each.
        num_gpus: G.
    Returns:
        (G,) or (L, G).
    Raises:
        ValueError: an expert with load has no place, or places do not divide over the devices.
    """
    loads, places = as_amounts(load, "load"), as_real(physical_to_logical, "physical_to_logical")
    load_LE, place_LR = np.atleast_2d(loads), np.atleast_2d(places).astype(np.int64)
    if len(load_LE) != len(place_LR):
        raise ValueError(f"load has {len(load_LE)} layers, physical_to_logical {len(place_LR)}")
    if place_LR.shape[1] % check_size(num_gpus, "num_gpus"):
        raise ValueError(f"{place_LR.shape[1]} places do not divide over {num_gpus} devices")
    experts = load_LE.shape[1]
    if place_LR.size and (place_LR.min() < 0 or place_LR.max() >= experts):
        raise ValueError(f"physical_to_logical must name experts 0 .. {experts - 1}")
    count_LE = np.stack([np.bincount(row, minlength=experts) for row in place_LR])
    if ((count_LE == 0) & (load_LE > 0)).any():
        layer, expert = np.argwhere((count_LE == 0) & (load_LE > 0))[0]
        raise ValueError(f"expert {expert} of row {layer} has load and no place")
    share = np.take_along_axis(divide(load_LE, count_LE), place_LR, 1)
    out = share.reshape(len(load_LE), num_gpus, -1).sum(2)
    return out if loads.ndim == 2 else out[0]


def balancedness(loads: ArrayLike) -> float | np.ndarray:
    """Mean over largest load of the devices, 1 when even.

    Args:
        loads: (..., G).
    Returns:
        (...); 0 where nothing is loaded.
    """
    values = as_amounts(loads, "loads")
    return divide(values.mean(-1), values.max(-1))[()]


def contiguous(num_experts: int, num_devices: int) -> np.ndarray:
    """(E,) device of each expert, in the order of their numbers; sizes differ by 1 at most."""
    _check(num_experts, num_devices)
    return np.arange(num_experts) * num_devices // num_experts


def random_placement(num_experts: int, num_devices: int, rng: np.random.Generator) -> np.ndarray:
    """(E,) device of each expert, drawn evenly among placements of the same sizes."""
    return rng.permutation(contiguous(num_experts, num_devices))


def greedy(load: ArrayLike, num_devices: int) -> np.ndarray:
    """(E,) device of each expert: largest first to the least loaded device that has room for E / G.

    Raises:
        ValueError: experts do not divide over the devices.
    """
    values = as_amounts(load, "load")
    _check(len(values), num_devices)
    if len(values) % num_devices:
        raise ValueError(f"{len(values)} experts do not divide over {num_devices} devices")
    if len(values) == num_devices:
        return np.arange(num_devices)
    return balanced_packing(values[None], num_devices)[0][0]


def _check(num_experts: int, num_devices: int) -> None:
    if check_size(num_devices, "num_devices") > check_size(num_experts, "num_experts"):
        raise ValueError(f"{num_devices} devices are more than {num_experts} experts")

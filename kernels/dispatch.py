"""What goes from device to device when tokens are sent to their experts. Definitions: docs/methods/decisions.md."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ._arrays import as_amounts, as_ids, as_labels, check_range, check_size, divide


def dispatch_matrix(
    ids: ArrayLike,
    home_of_token: ArrayLike,
    device_of_expert: ArrayLike,
    num_devices: int,
    per: Literal["slot", "token"] = "slot",
) -> np.ndarray:
    """How much each device sends to each.

    Args:
        ids: (T, k) chosen experts of one layer, -1 = empty slot.
        home_of_token: (T,) device on which each token lies.
        device_of_expert: (E,).
        num_devices: G.
        per: "slot" counts (token, expert) pairs; "token" counts a token once for each device that it goes to,
            as engines do that send a token's vector once.
    Returns:
        (G, G) from row to column. What stays is on the diagonal: `local_share`.
    Source:
        Comet, arXiv 2502.19811.
    """
    if per not in ("slot", "token"):
        raise ValueError(f'per must be "slot" or "token", got {per!r}')
    check_size(num_devices, "num_devices")
    ids_TK, place_E = as_ids(ids), np.asarray(device_of_expert)
    place_E = as_labels(place_E, "device_of_expert", len(place_E))
    home_T = as_labels(home_of_token, "home_of_token", len(ids_TK))
    check_range(ids_TK, len(place_E), "ids")
    for values, name in ((home_T, "home_of_token"), (place_E, "device_of_expert")):
        if values.size and (values.min() < 0 or values.max() >= num_devices):
            raise ValueError(f"{name} must lie in 0 .. {num_devices - 1}")
    token, slot = np.nonzero(ids_TK >= 0)
    target = place_E[ids_TK[token, slot]]
    if per == "token":
        token, target = np.unique(np.stack([token, target]), axis=1)
    pairs = home_T[token].astype(np.int64) * num_devices + target
    return np.bincount(pairs, minlength=num_devices**2).reshape(num_devices, num_devices)


def local_share(dispatched: ArrayLike) -> float:
    """Share of what is sent that stays on its device: trace / sum; 0 where nothing is sent."""
    sent = as_amounts(dispatched, "dispatched")
    return float(divide(np.trace(sent), sent.sum()))


def micro_batch_skew(counts: ArrayLike) -> np.ndarray:
    """How unevenly a batch's tokens fall on the experts.

    Args:
        counts: (..., E) choices of each expert, or shares: rows are divided by their sums.
    Returns:
        (...) population standard deviation of the shares. (.2,.1,.15,.05,.125,.125,.15,.1) → .041458.
    Source:
        Comet, arXiv 2502.19811.
    """
    values = as_amounts(counts, "counts")
    return divide(values, values.sum(-1, keepdims=True)).std(-1)[()]


def busiest_over_mean(load: ArrayLike) -> np.ndarray:
    """Largest over mean of (..., E) loads, 1 when even. (8,4,2,2) → 2."""
    values = as_amounts(load, "load")
    return divide(values.max(-1), values.mean(-1))[()]

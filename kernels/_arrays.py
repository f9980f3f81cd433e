"""Checks of the arguments of kernels.

NumPy arrays, torch tensors (recognised by what they can do: kernels never import torch), lists and scalars
come in; NumPy arrays go on. Ids are never widened as a whole: 100 million of them stay as small as they came.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

EMPTY_SLOT = -1

CHUNK_SLOTS = 1 << 16
"""Slots taken at once: their int64 keys (512 KiB) stay in a core's second-level cache."""

LARGEST_CHUNK = 1 << 22
"""Slots taken at once (32 MiB of keys) where the table they are counted into is itself large."""


def to_numpy(values: Any) -> np.ndarray:
    """An array as NumPy, without a copy where that is possible.

    Args:
        values: an array, a torch tensor on any device, or nested lists. bfloat16 tensors become float32,
            which holds each of their values exactly.
    """
    detach = getattr(values, "detach", None)
    if detach is None:
        return np.asarray(values)
    tensor = detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    return tensor.numpy()


def first_index(mask: np.ndarray) -> str:
    """Where the first True of a boolean array lies, as text: `[3, 5]`; empty for a single number."""
    if mask.ndim == 0:
        return ""
    index = np.unravel_index(int(np.argmax(mask)), mask.shape)
    return "[" + ", ".join(str(int(i)) for i in index) + "]"


def as_real(values: ArrayLike, name: str) -> np.ndarray:
    """Numbers as they came (any integer or float type), checked to hold no NaN.

    Raises:
        ValueError: not numbers, or a NaN; the message says where.
    """
    array = to_numpy(values)
    if array.dtype.kind == "b":
        array = array.view(np.uint8)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must hold real numbers, got {array.dtype}")
    if array.dtype.kind == "f":
        total = np.sum(array, dtype=np.float64)
        if np.isnan(total):
            missing = np.isnan(array)
            if missing.any():
                raise ValueError(f"{name}{first_index(missing)} is NaN")
    return array


def as_amounts(values: ArrayLike, name: str) -> np.ndarray:
    """Counts or other amounts as float64: no NaN, none negative, none infinite.

    Raises:
        ValueError: as above; the message says where.
    """
    array = as_real(values, name).astype(np.float64, copy=False)
    if array.min(initial=0) < 0 or array.max(initial=0) == np.inf:
        wrong = (array < 0) | np.isinf(array)
        where = first_index(wrong)
        raise ValueError(f"{name}{where} is {array[wrong][0]}: it must be finite and not negative")
    return array


def as_ids(ids: ArrayLike, name: str = "ids") -> np.ndarray:
    """Chosen experts as a (T, k) array of their own integer type; a vector is taken as k = 1.

    Raises:
        ValueError: more than two dimensions, or not integers (expert ids are never rounded from floats).
    """
    array = to_numpy(ids)
    if array.size == 0 and array.dtype.kind == "f" and not hasattr(ids, "dtype"):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {array.dtype}")
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (T, k), got {array.shape}")
    return array


def as_slot_weights(weights: ArrayLike, ids_TK: np.ndarray) -> np.ndarray:
    """Gate weights beside their ids, (T, k) in their own type; NaN in empty slots is ignored."""
    weights_TK = to_numpy(weights)
    if weights_TK.ndim == 1:
        weights_TK = weights_TK[:, None]
    if weights_TK.dtype.kind not in "iuf":
        raise ValueError(f"weights must hold real numbers, got {weights_TK.dtype}")
    if weights_TK.shape != ids_TK.shape:
        raise ValueError(f"weights have shape {weights_TK.shape}, ids {ids_TK.shape}")
    return weights_TK


def as_labels(labels: ArrayLike, name: str, length: int) -> np.ndarray:
    """One integer for each of `length` rows, -1 where a row belongs nowhere."""
    array = to_numpy(labels)
    if array.size == 0 and length == 0:
        return np.zeros(0, np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {array.dtype}")
    if array.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {array.shape}")
    return array


def check_size(num: int, name: str, least: int = 1) -> int:
    """A whole number that is at least `least`."""
    if isinstance(num, bool) or int(num) != num or num < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {num!r}")
    return int(num)


def check_range(chunk: np.ndarray, limit: int, name: str, offset: int = 0) -> bool:
    """Refuse ids outside -1 .. limit - 1, and say whether any is -1.

    Args:
        chunk: ids, whose first row is row `offset` of the whole.
    Raises:
        ValueError: names the first id that lies outside, and where.
    """
    if chunk.size == 0:
        return False
    low, high = int(chunk.min()), int(chunk.max())
    if high >= limit or low < EMPTY_SLOT:
        wrong = (chunk >= limit) | (chunk < EMPTY_SLOT)
        index = np.unravel_index(int(np.argmax(wrong)), chunk.shape)
        where = ", ".join(str(int(i) + (offset if axis == 0 else 0)) for axis, i in enumerate(index))
        raise ValueError(
            f"{name}[{where}] is {int(chunk[index])}: it must lie in 0 .. {limit - 1}, or be -1 for none"
        )
    return low < 0


def row_chunks(rows: int, slots_per_row: int, least_slots: int = CHUNK_SLOTS) -> Iterator[slice]:
    """Slices over `rows` that take about `least_slots` slots at a time."""
    step = max(1, least_slots // max(1, slots_per_row))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def divide(numerator: ArrayLike, denominator: ArrayLike) -> np.ndarray:
    """`numerator / denominator` in float64, 0 where both are 0."""
    top = np.asarray(numerator, np.float64)
    bottom = np.asarray(denominator, np.float64)
    out = np.zeros(np.broadcast_shapes(top.shape, bottom.shape))
    return np.divide(top, bottom, out=out, where=bottom != 0)

"""Arrays of expert ids as engines write them: nested lists, NumPy's own format, raw bytes with a shape."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import numpy as np

from ..errors import ImportRefused

LARGEST_ARRAY = 1 << 31
_KINDS = ("uint8", "uint16", "int16", "int32", "int64")
_NPY = b"\x93NUMPY"


def refuse(where: str, column: str, message: str) -> ImportRefused:
    return ImportRefused(f"{where}, {column}: {message}")


def whole_numbers(value: Any, where: str, column: str) -> list[int]:
    """A list of token ids."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list):
        raise refuse(where, column, "it must be a list of whole numbers")
    for at, number in enumerate(value):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**31:
            raise refuse(
                where, column, f"entry {at} is {repr(number)[:40]}, not a whole number from 0 to 2147483647"
            )
    return value


def expert_array(value: Any, where: str, column: str) -> np.ndarray:
    """(N, L, K) integer array from nested lists, an array, the base64 of a `.npy` file (as vLLM's server sends
    it), or {"base64", "dtype", "shape"}."""
    if isinstance(value, str):
        value = _npy(value, where, column)
    elif isinstance(value, dict):
        value = _described(value, where, column)
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise refuse(where, column, "it is not a regular array: its lists have different lengths") from error
    if array.size == 0:
        return np.zeros((0, 0, 0), np.int64)
    if array.ndim != 3 or array.dtype.kind not in "iu":
        raise refuse(where, column, f"expected whole numbers [tokens, layers, k], got shape {array.shape}")
    if array.min() < -1 or array.max() >= 2**31:
        raise refuse(where, column, f"an expert id is {array.min() if array.min() < -1 else array.max()}")
    return array


def _npy(text: str, where: str, column: str) -> np.ndarray:
    data = from_base64(text, where, column)
    if not data.startswith(_NPY):
        raise refuse(
            where,
            column,
            "this is base64, but not a .npy file: give "
            '{"base64": ..., "dtype": ..., "shape": [tokens, layers, k]}',
        )
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TypeError, MemoryError, OverflowError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise refuse(where, column, f"this is not a readable .npy file: {said[:200]}") from error


def _described(value: dict[str, Any], where: str, column: str) -> np.ndarray:
    shape, kind = value.get("shape"), value.get("dtype")
    if not isinstance(shape, list) or len(shape) != 3:
        raise refuse(where, column, "shape must be [tokens, layers, k]")
    if kind not in _KINDS:
        raise refuse(where, column, f"dtype {str(kind)[:20]!r} is not one of {', '.join(_KINDS)}")
    flat = np.frombuffer(from_base64(value.get("base64"), where, column), np.uint8)
    sizes = whole_numbers(shape, where, f"{column}.shape")
    total = sizes[0] * sizes[1] * sizes[2] * np.dtype(kind).itemsize
    if total != flat.nbytes or total > LARGEST_ARRAY:
        raise refuse(where, column, f"{flat.nbytes} bytes do not make {shape} of {kind}")
    return flat.view(kind).reshape(sizes)


def from_base64(value: Any, where: str, column: str) -> bytes:
    if not isinstance(value, str):
        raise refuse(where, column, "base64 text is missing")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise refuse(where, column, f"this is not base64: {error}") from error

"""`.pt` files of other tools, read with `weights_only=True`: nothing in them can run."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImportRefused
from .arrays import refuse

_WHOLE = ("torch.int64", "torch.int32", "torch.int16", "torch.int8", "torch.uint8")
_REAL = ("torch.float32", "torch.float64", "torch.float16", "torch.bfloat16")
LARGEST_EXACT = float(1 << 53)


def load(path: Path) -> Any:
    """What `torch.save` wrote. Raises ImportRefused for a file that is none, or that would run code."""
    import torch

    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise ImportRefused(f"{path}: there is no such file") from None
    except Exception as error:
        raise ImportRefused(f"{path.name} is not a readable .pt file: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Why torch refused, without its advice to load the file with code and all."""
    if found := re.search(r"Unsupported global: GLOBAL ([\w.]+)", str(error)):
        return f"it holds a {found[1]}; only tensors and plain values are read, because other objects can run code"
    if isinstance(error, pickle.UnpicklingError | EOFError):
        return "torch.save did not write it, or it was cut off"
    return " ".join(str(error).split(". ")[0].split())[:200]


def is_tensor(value: Any) -> bool:
    return callable(getattr(value, "detach", None))


def whole_array(value: Any, where: str, column: str, dimensions: int | None = None) -> np.ndarray:
    """A tensor of whole numbers as an array; floats that are whole numbers (averages of counts, say) too.

    Args:
        dimensions: how many it must have; None for any.
    Raises:
        ImportRefused: it is no such tensor.
    """
    if not is_tensor(value):
        raise refuse(where, column, "it is not a tensor")
    if str(value.layout) != "torch.strided":
        raise refuse(where, column, "it is a sparse tensor: save it dense (.to_dense())")
    kind = str(value.dtype)
    if kind not in (*_WHOLE, *_REAL):
        raise refuse(where, column, f"expected whole numbers, got {value.dtype}")
    if dimensions is not None and value.ndim != dimensions:
        raise refuse(where, column, f"expected {dimensions} dimensions, got {tuple(value.shape)}")
    tensor = value.detach().cpu()
    if kind in _WHOLE:
        return tensor.numpy()
    array = tensor.double().numpy()
    if not (np.isfinite(array) & (array == np.trunc(array)) & (np.abs(array) < LARGEST_EXACT)).all():
        raise refuse(where, column, "expected whole numbers, got fractions, NaN or numbers beyond 2^53")
    return array.astype(np.int64)


def real_array(value: Any, where: str, column: str) -> np.ndarray:
    """A tensor of numbers as a float32 array. Raises ImportRefused where it is none."""
    if (
        not is_tensor(value)
        or str(value.layout) != "torch.strided"
        or str(value.dtype) not in (*_WHOLE, *_REAL)
    ):
        raise refuse(where, column, "expected a dense tensor of numbers")
    return value.detach().cpu().float().numpy()

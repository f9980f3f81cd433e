"""Counts as arrays, [layers, experts] or [sequences, layers, experts], in NumPy's `.npz` and torch's `.pt` files."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImportRefused
from .arrays import refuse, whole_numbers
from .count_steps import CountArray
from .sequences import storable
from .torch_files import LARGEST_EXACT, is_tensor, load, whole_array

COUNT_NAMES = ("count", "counts", "A", "logical_count", "expert_counts", "expert_count")
WEIGHT_NAMES = ("weight_sum", "weight_sums", "G", "gate_sum")
TOKEN_NAMES = ("tokens", "num_tokens")
LAYER_NAMES = ("layers", "layer")
NAME_NAMES = ("sequences", "sequence", "prompt_ids", "names")
LABEL_NAMES = {"language": ("languages", "language"), "group": ("groups", "group", "domains", "labels")}
LARGEST_ARRAY = 4 << 30
_DAMAGE = (
    OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, SyntaxError,
    TypeError, OverflowError, MemoryError, RuntimeError, struct.error,
)  # fmt: skip


def npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a `.npz` file without pickles. Raises ImportRefused."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST_ARRAY:
            raise ImportRefused(f"{path.name} declares {size:,} bytes; at most {LARGEST_ARRAY:,} are read")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise ImportRefused(f"{path}: there is no such file") from None
    except ImportRefused:
        raise
    except _DAMAGE as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise ImportRefused(f"{path.name} is not a readable .npz file: {said}") from error


def npz_counts(path: Path) -> CountArray:
    """Counts of a `.npz` file, by the names of its arrays."""
    arrays = npz_arrays(path)
    found = _named(arrays, COUNT_NAMES)
    if found is None:
        there = ", ".join(f"{ascii(name)[:30]} {array.shape}" for name, array in arrays.items()) or "none"
        raise ImportRefused(
            f"{path.name}: no array is called {', '.join(COUNT_NAMES)}; it has: {there[:300]}"
        )
    count = _whole(found, path.name, "count")
    weight, tokens = _named(arrays, WEIGHT_NAMES), _named(arrays, TOKEN_NAMES)
    if weight is not None and weight.dtype.kind not in "fiu":
        raise refuse(path.name, "weight_sum", f"expected numbers, got {weight.dtype}")
    return _counts(
        path.name,
        count,
        weight=weight,
        tokens=None if tokens is None else _whole(tokens, path.name, "tokens"),
        layers=_named(arrays, LAYER_NAMES),
        names=_named(arrays, NAME_NAMES),
        labels={
            column: array
            for column, names in LABEL_NAMES.items()
            if (array := _named(arrays, names)) is not None
        },
    )


def torch_counts(path: Path) -> CountArray:
    """Counts of a `.pt` file: a tensor, or a dictionary that holds one under a known name, or one for each group."""
    data = load(path)
    if is_tensor(data):
        return _counts(path.name, whole_array(data, path.name, "the tensor"))
    if not isinstance(data, dict) or not data:
        raise ImportRefused(f"{path.name}: expected a tensor of counts, or a dictionary of them")
    found = next((data[name] for name in COUNT_NAMES if name in data), None)
    if found is not None:
        layers = data.get("layers")
        given = (
            np.array(whole_numbers(layers, path.name, "layers"), np.int64)
            if isinstance(layers, list)
            else None
        )
        return _counts(path.name, whole_array(found, path.name, "count"), layers=given)
    return _by_group(path.name, data)


def _by_group(name: str, data: dict[Any, Any]) -> CountArray:
    """{group: [layers, experts]} or {group: {layer: [experts]}}, as analysis scripts keep them."""
    grids, layers = [], None
    for group, value in data.items():
        if isinstance(value, dict) and value and all(is_tensor(item) for item in value.values()):
            here = [_layer(key, name) for key in value]
            rows = [whole_array(item, name, f"{group}/{key}", 1) for key, item in value.items()]
            if len({len(row) for row in rows}) > 1:
                raise refuse(name, ascii(group)[:40], "its layers have different numbers of experts")
            order = np.argsort(here)
            here, grid = [here[i] for i in order], np.stack([rows[i] for i in order])
            if layers not in (None, here):
                raise refuse(name, ascii(group)[:40], f"it has layers {here}, others have {layers}")
            layers = here
        else:
            grid = whole_array(value, name, ascii(group)[:40], 2)
        grids.append(grid)
    if len({grid.shape for grid in grids}) > 1:
        raise ImportRefused(f"{name}: its groups have counts of different shapes")
    groups = np.array([storable(group, name) for group in data])
    given = None if layers is None else np.array(layers)
    return _counts(name, np.stack(grids), layers=given, names=groups, labels={"group": groups})


def _layer(key: Any, name: str) -> int:
    text = str(key)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ImportRefused(f"{name}: {ascii(key)[:40]} is not a layer number")
    return int(text)


def _named(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _whole(array: np.ndarray, name: str, what: str) -> np.ndarray:
    if array.dtype.kind in "iu":
        if array.size and int(array.max()) > LARGEST_EXACT:
            raise refuse(name, what, f"{int(array.max())} is too large")
        return array.astype(np.int64)
    if (
        array.dtype.kind != "f"
        or not (np.isfinite(array) & (array == np.trunc(array)) & (np.abs(array) < LARGEST_EXACT)).all()
    ):
        raise refuse(name, what, f"expected whole numbers, got {array.dtype}")
    return array.astype(np.int64)


def _counts(
    name: str,
    count: np.ndarray,
    *,
    weight: np.ndarray | None = None,
    tokens: np.ndarray | None = None,
    layers: np.ndarray | None = None,
    names: np.ndarray | None = None,
    labels: dict[str, np.ndarray] | None = None,
) -> CountArray:
    if count.ndim == 2:
        count = count[None]
        weight = None if weight is None else weight[None]
        tokens = None if tokens is None else np.atleast_2d(tokens)
    if count.ndim != 3 or not count.size:
        raise refuse(name, "count", f"expected [sequences, layers, experts], got {count.shape}")
    size, depth, _ = count.shape
    if weight is not None and weight.shape != count.shape:
        raise refuse(name, "weight_sum", f"its shape is {weight.shape}, that of the counts {count.shape}")
    if tokens is not None:
        tokens = np.broadcast_to(tokens[:, None], (size, depth)) if tokens.shape == (size,) else tokens
        if tokens.shape != (size, depth):
            raise refuse(name, "tokens", f"expected {(size,)} or {(size, depth)}, got {tokens.shape}")
    if layers is not None and (layers.shape != (depth,) or layers.dtype.kind not in "iu"):
        raise refuse(name, "layers", f"expected {depth} whole numbers")
    given = _texts(names, name, "names", size)
    prompts: list[dict[str, Any]] = [
        {"prompt_id": given[at] if given else f"sequence-{at:05d}", "unnamed": not given}
        for at in range(size)
    ]
    for column, array in (labels or {}).items():
        for prompt, text in zip(prompts, _texts(array, name, column, size) or [], strict=True):
            prompt[column] = text
    return CountArray(
        prompts, count, weight, tokens, None if layers is None else [int(layer) for layer in layers]
    )


def _texts(array: np.ndarray | None, name: str, what: str, size: int) -> list[str] | None:
    if array is None:
        return None
    if array.shape != (size,) or array.dtype.kind not in "USiu":
        raise refuse(name, what, f"expected {size} names")
    plain = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in array.tolist()]
    return [storable(text, name) for text in plain]

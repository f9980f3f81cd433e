"""llama.cpp's importance matrices (`llama-imatrix -o FILE.gguf`): how many tokens each expert saw.

Such a file holds, for each weight matrix, `NAME.in_sum2` and `NAME.counts`. For the expert matrices
(`blk.N.ffn_up_exps.weight.counts`) the counts are those of the experts; for the router itself
(`blk.N.ffn_gate_inp.weight.counts`) they are the tokens that passed it. The file is read with every length held
against its size: a header that claims more than there is would otherwise keep a reader busy for hours.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np

from ..errors import ImportRefused
from .arrays import refuse
from .count_steps import CountArray

_EXPERTS = re.compile(r"blk\.(\d{1,6})\.ffn_(?:up|gate|down|gate_up)_exps\.weight\.counts")
_ROUTER = re.compile(r"blk\.(\d{1,6})\.ffn_gate_inp\.weight\.counts")
_F32, _STRING, _ARRAY = 0, 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a metadata value by its type."""
_DEEPEST = 4


def gguf_counts(path: Path) -> CountArray:
    """Counts of the experts by layer. Raises ImportRefused."""
    try:
        tensors = _Reader(path.read_bytes()).tensors()
    except FileNotFoundError:
        raise ImportRefused(f"{path}: there is no such file") from None
    except OSError as error:
        raise ImportRefused(f"{path.name} can't be read: {error.strerror or error}") from error
    except (ValueError, struct.error, UnicodeDecodeError) as error:
        raise ImportRefused(f"{path.name} is not a readable .gguf file: {error}") from error
    found: dict[int, np.ndarray] = {}
    tokens: dict[int, int] = {}
    for name, values in tensors.items():
        if match := _EXPERTS.fullmatch(name):
            _take(found, int(match[1]), _whole(values, path.name, name), path.name, name)
        elif match := _ROUTER.fullmatch(name):
            tokens[int(match[1])] = int(_whole(values, path.name, name).sum())
    if not found:
        raise ImportRefused(
            f"{path.name}: no tensor is called blk.N.ffn_up_exps.weight.counts: no imatrix of an MoE"
        )
    if len({len(count_E) for count_E in found.values()}) > 1:
        raise ImportRefused(f"{path.name}: its layers have different numbers of experts")
    layers = sorted(found)
    known = all(tokens.get(layer) for layer in layers)
    return CountArray(
        prompts=[{"prompt_id": path.stem}],
        count_SLE=np.stack([found[layer] for layer in layers])[None],
        tokens_SL=np.array([[tokens[layer] for layer in layers]]) if known else None,
        layers=layers,
    )


def _take(found: dict[int, np.ndarray], layer: int, count_E: np.ndarray, file: str, name: str) -> None:
    """Up, gate and down of a layer have seen the same tokens."""
    if layer in found and not np.array_equal(found[layer], count_E):
        raise refuse(file, name, "its counts differ from those of another matrix of the layer")
    found[layer] = count_E


def _whole(values: np.ndarray, file: str, name: str) -> np.ndarray:
    if not (np.isfinite(values) & (values >= 0) & (values == np.trunc(values)) & (values < 2**53)).all():
        raise refuse(file, name, "expected whole numbers")
    return values.astype(np.int64)


class _Reader:
    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def tensors(self) -> dict[str, np.ndarray]:
        """Float32 tensors called `...counts`, flat. Raises ValueError or struct.error."""
        if self._bytes(4) != b"GGUF":
            raise ValueError(
                "it does not begin with GGUF (older .dat files: llama-imatrix --in-file OLD -o NEW.gguf)"
            )
        (version,) = self._unpack("<I")
        if version not in (2, 3):
            raise ValueError(f"version {version} is neither 2 nor 3")
        count, pairs = self._unpack("<QQ")
        alignment = 32
        for _ in range(pairs):
            key = self._text()
            (kind,) = self._unpack("<I")
            value = self._value(kind)
            if key == "general.alignment" and isinstance(value, bytes) and len(value) == 4:
                alignment = struct.unpack("<I", value)[0]
        infos = [self._info() for _ in range(self._fitting(count, 24))]
        if not 1 <= alignment <= 1 << 20:
            raise ValueError(f"its alignment is {alignment}")
        names = [name for name, *_ in infos]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"tensor {twice[:60]!a} is in it twice")
        start = -(-self.at // alignment) * alignment
        return {
            name: np.frombuffer(self.data, "<f4", size, self._inside(start + offset, 4 * size))
            for name, size, kind, offset in infos
            if kind == _F32 and name.endswith(".counts")
        }

    def _info(self) -> tuple[str, int, int, int]:
        name = self._text()
        (dimensions,) = self._unpack("<I")
        if dimensions > 8:
            raise ValueError(f"{name[:60]!a} has {dimensions} dimensions")
        size = 1
        for length in self._unpack(f"<{dimensions}Q"):
            size *= length
        kind, offset = self._unpack("<IQ")
        return name, size, kind, offset

    def _value(self, kind: int, depth: int = 0) -> bytes | None:
        """The bytes of a plain value; texts and lists are passed over."""
        if kind == _STRING:
            self._text()
            return None
        if kind == _ARRAY and depth < _DEEPEST:
            of, length = self._unpack("<IQ")
            if of in _SIZES:
                self._bytes(length * _SIZES[of])
            else:
                for _ in range(self._fitting(length, 8)):
                    self._value(of, depth + 1)
            return None
        if kind not in _SIZES:
            raise ValueError(f"a value has the unknown type {kind}")
        return self._bytes(_SIZES[kind])

    def _text(self) -> str:
        (length,) = self._unpack("<Q")
        return self._bytes(length).decode()

    def _fitting(self, count: int, least: int) -> int:
        """`count` entries of at least so many bytes each must still be there."""
        self._inside(self.at, count * least)
        return count

    def _unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))

    def _bytes(self, length: int) -> bytes:
        self._inside(self.at, length)
        self.at += length
        return self.data[self.at - length : self.at]

    def _inside(self, at: int, length: int) -> int:
        if at + length > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data)}, but claims {length} bytes at {at}")
        return at

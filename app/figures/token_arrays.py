"""A prompt's routing as dense arrays, from the `prompt-tokens` view. Shapes: T tokens, L layers, K slots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..text.graphemes import characters
from ..text.literal import cut, visible

MOST_CHARACTERS = 60
"""Of a token's text in a figure."""


@dataclass(frozen=True, kw_only=True)
class TokenArrays:
    """What the Tokens page draws of one prompt."""

    tokens: list[str]
    """(T,) text as the tokenizer gave it; empty where it has none."""
    token_ids: list[int]
    positions: list[int]
    flags: list[str]
    """(T,) what is unusual about a token: special, generated, completion; empty for plain ones."""
    layers: list[int]
    ids_LTK: np.ndarray
    """int32, -1 where a token used fewer experts than K, or did not pass the layer."""
    weights_LTK: np.ndarray | None
    entropy_LT: np.ndarray | None

    @property
    def special(self) -> list[bool]:
        """(T,) whether a token is none of the text."""
        return ["special" in flag for flag in self.flags]

    def window(self, start: int, end: int) -> TokenArrays:
        """Tokens start to end of it."""
        return TokenArrays(
            tokens=self.tokens[start:end], token_ids=self.token_ids[start:end],
            positions=self.positions[start:end], flags=self.flags[start:end], layers=self.layers,
            ids_LTK=self.ids_LTK[:, start:end],
            weights_LTK=None if self.weights_LTK is None else self.weights_LTK[:, start:end],
            entropy_LT=None if self.entropy_LT is None else self.entropy_LT[:, start:end],
        )  # fmt: skip


def token_arrays(view: pa.Table) -> TokenArrays:
    """Dense arrays of the `prompt-tokens` view of one prompt and one stream."""
    position_N = view["position"].to_numpy()
    layer_N = view["layer"].to_numpy()
    positions, first_row = np.unique(position_N, return_index=True)
    layers = np.unique(layer_N)
    row_N = np.searchsorted(layers, layer_N), np.searchsorted(positions, position_N)
    ids_LTK = _padded(view["experts"], row_N, (len(layers), len(positions)), -1).astype(np.int32)
    weights = view["weights"] if "weights" in view.column_names else None
    known = weights is not None and weights.null_count < len(weights)
    shape = (len(layers), len(positions))
    entropy = None
    if "entropy" in view.column_names:
        entropy = np.full(shape, np.nan, np.float32)
        entropy[row_N] = view["entropy"].to_numpy().astype(np.float32)
    about = view.select(["token", "token_id", "special", "phase", "completion"]).take(pa.array(first_row))
    return TokenArrays(
        tokens=[token or "" for token in about["token"].to_pylist()],
        token_ids=about["token_id"].to_pylist(),
        positions=positions.tolist(),
        flags=[_flag(row) for row in about.to_pylist()],
        layers=layers.tolist(),
        ids_LTK=ids_LTK,
        weights_LTK=_padded(weights, row_N, shape, np.nan).astype(np.float32) if known else None,
        entropy_LT=entropy,
    )


def _flag(row: dict) -> str:
    names = {
        "special": row["special"],
        "generated": row["phase"] == "decode",
        "completion": row["completion"],
    }
    return ", ".join(name for name, holds in names.items() if holds)


def _padded(column: pa.ChunkedArray, row_N: tuple, shape: tuple[int, int], fill: float) -> np.ndarray:
    """Lists of N rows in an (L, T, K) array, K the longest list."""
    lists = column.combine_chunks()
    if pa.types.is_fixed_size_list(lists.type):
        lists = lists.cast(pa.list_(lists.type.value_type))
    offsets = lists.offsets.to_numpy()
    lengths = np.diff(offsets)
    width = int(lengths.max()) if len(lengths) else 0
    out = np.full((*shape, width), fill, np.float64)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    slots = np.arange(len(rows)) - np.repeat(offsets[:-1] - offsets[0], lengths)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    out[row_N[0][rows], row_N[1][rows], slots] = values
    return out


def shown_tokens(arrays: TokenArrays) -> list[str]:
    """The characters that each token is (a part) of, with controls and line breaks made visible, and cut: a figure with
    a token of 100,000 characters takes minutes to draw."""
    return [cut(visible(text), MOST_CHARACTERS) for text in characters(arrays.tokens, apart=arrays.special)]

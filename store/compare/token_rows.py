"""The tokens of a trace as arrays, in the order of its prompts and positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..read.trace_parts import retry_without_damaged_part
from ..read.trace_rows import TraceRows

UNKNOWN = -1
"""The token id where an import has none."""
_SPAN = np.int64(1) << 32


@dataclass(frozen=True)
class TokenRows:
    """N tokens, by rising (prompt, position)."""

    prompt_N: np.ndarray
    """Row of `Trace.prompts()`."""
    position_N: np.ndarray
    token_N: np.ndarray
    """Token ids; `UNKNOWN` where there is none."""
    table: pa.Table
    """Columns token, phase, special and completion of the same rows."""

    @property
    def key_N(self) -> np.ndarray:
        return key_of(self.prompt_N, self.position_N)

    def of_prompt(self, prompt: int) -> slice:
        """The rows of one prompt."""
        return slice(*np.searchsorted(self.prompt_N, [prompt, prompt + 1]).tolist())

    def text(self, row: int) -> str | None:
        return self.table["token"][row].as_py()


def key_of(prompt_N: np.ndarray, position_N: np.ndarray) -> np.ndarray:
    """One number for each (prompt, position), in their order."""
    return prompt_N.astype(np.int64) * _SPAN + position_N


@retry_without_damaged_part
def token_rows(trace: TraceRows) -> TokenRows:
    """All tokens of a trace."""
    names = ["prompt", "position", "token_id", "token", "phase", "special", "completion"]
    pieces = list(trace.iter_token_parts(names))
    if not pieces:
        none = np.zeros(0, np.int64)
        empty = pa.table({name: pa.array([], pa.string()) for name in names[3:5]})
        for name in names[5:]:
            empty = empty.append_column(name, pa.array([], pa.bool_()))
        return TokenRows(none, none, none, empty)
    table = pa.concat_tables(pieces)
    at = table.schema.get_field_index("phase")
    table = table.set_column(at, "phase", table["phase"].cast(pa.string())).combine_chunks()
    return TokenRows(
        trace.row_of_key(np.asarray(table["prompt"])),
        np.asarray(table["position"]).astype(np.int64),
        np.asarray(table["token_id"].fill_null(UNKNOWN)).astype(np.int64),
        table.select(names[3:]),
    )

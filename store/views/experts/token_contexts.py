"""Where single tokens stand in the traced texts: what a token that is a part of a character belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ...errors import StoreError
from ...read.trace_rows import TraceRows
from ..registry import view

SCHEMA = pa.schema(
    [("token_id", pa.int32()), ("token", pa.string()), ("before", pa.string()), ("after", pa.string())]
)
COLUMNS = ["prompt", "token_id", "token"]


@view("token-contexts", needs=("token_ids",))
def token_contexts(
    trace: TraceRows, *, token_ids: str | Sequence[int], context: int = 8, limit: int = 40
) -> pa.Table:
    """Where tokens stand in the traced texts, some occurrences of each: tokens are parts of characters in many
    vocabularies, and only the text around them says of which.

    Args:
        token_ids: comma between.
        context: tokens of text before and after.
        limit: how many occurrences of each token, spread over a part of the trace; 0 for all.
    Returns:
        token_id, token, before, after (text of the same prompt).
    """
    left = dict.fromkeys(_ids(token_ids), limit or None)
    pieces = [SCHEMA.empty_table()]
    for part in trace.iter_token_parts(COLUMNS):
        if not left:
            break
        found = _occurrences(part, left)
        pieces.append(_in_text(part, found, context))
    return pa.concat_tables(pieces)


def _ids(token_ids: str | Sequence[int]) -> list[int]:
    try:
        given = token_ids.split(",") if isinstance(token_ids, str) else token_ids
        return list(dict.fromkeys(int(one) for one in given))
    except ValueError:
        raise StoreError(f"token_ids are {token_ids!r}; write numbers, as in 5,17") from None


def _occurrences(part: pa.Table, left: dict[int, int | None]) -> np.ndarray:
    """Rows of a part that hold one of the tokens, evenly spread; `left` counts down, what has enough is dropped."""
    id_N = np.asarray(part["token_id"].fill_null(-1))
    rows_N = np.flatnonzero(np.isin(id_N, list(left)))
    found = [np.zeros(0, np.int64)]
    for token, most in list(left.items()):
        here = rows_N[id_N[rows_N] == token]
        if most is not None:
            here = here[np.linspace(0, len(here) - 1, min(most, len(here))).astype(np.int64)]
            left[token] = most - len(here)
            if not left[token]:
                del left[token]
        found.append(here)
    return np.concatenate(found)


def _in_text(part: pa.Table, rows: np.ndarray, context: int) -> pa.Table:
    """The rows with the text around them; rows of one prompt stand together, in the order of its tokens."""
    prompt_N = np.asarray(part["prompt"])
    text = part["token"].combine_chunks()
    before, after = [], []
    for row in rows:
        low, high = max(row - context, 0), min(row + context + 1, len(prompt_N))
        same = prompt_N[low:high] == prompt_N[row]
        tokens = [one or "" for one in text.slice(low, high - low).to_pylist()]
        around = [one if here else "" for one, here in zip(tokens, same, strict=True)]
        before.append("".join(around[: row - low]))
        after.append("".join(around[row - low + 1 :]))
    taken = part.select(["token_id", "token"]).take(pa.array(rows))
    columns = [*taken.columns, pa.array(before, pa.string()), pa.array(after, pa.string())]
    return pa.table(columns, names=SCHEMA.names).cast(SCHEMA)

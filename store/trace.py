"""A trace, opened for reading: its tables, and what is built on them: counts, named views, SQL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from .files.folder import open_folder
from .read.token_filter import TokenFilter
from .read.trace_parts import DamageWarning, retry_without_damaged_part
from .read.trace_rows import TraceRows
from .sql.query import run_query
from .views.experts.load import counts_table
from .views.registry import run

__all__ = ["DamageWarning", "Trace", "open_trace"]


class Trace(TraceRows):
    """One trace. Safe to use from several threads. Made by `open_trace`."""

    @retry_without_damaged_part
    def counts(
        self,
        by: str | None = None,
        *,
        layer: int | Sequence[int] | None = None,
        stream: str | None = None,
        tokens: TokenFilter | None = None,
        **kinds: Any,
    ) -> pa.Table:
        """How often each expert was chosen by the tokens of a `TokenFilter` (or of its fields, named here).

        Returns:
            layer, stream, [the column `by`], expert, tokens, count, weight_sum, probability_sum, nan_tokens: one row
            for every expert, chosen or not; sums the trace lacks are null.
        """
        return counts_table(self, by, TokenFilter.of(tokens, kinds), layer, stream)

    @retry_without_damaged_part
    def view(self, name: str, **params: Any) -> pa.Table:
        """A named view of `store/views`, as a table; `views.names()` lists them.

        Raises:
            UnknownColumn: no such view or parameter.
        """
        return run(self, name, params)

    @retry_without_damaged_part
    def sql(self, query: str, **limits: Any) -> pa.Table:
        """One read-only SELECT over prompts, tokens, events, selections and rollups; see `sql.query.run_query`."""
        return run_query(self, query, **limits)


def open_trace(url: str | os.PathLike[str]) -> Trace:
    """Open the trace at a folder or URL for reading.

    Raises:
        NotATrace, NewerTrace, DamagedTrace: all are StoreErrors that say what is wrong.
    """
    return Trace(open_folder(url))

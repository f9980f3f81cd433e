"""A placement decision as one object: what was compared, and what can be written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from ...errors import DecisionRefused
from ...notes import with_notes
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..options import DECODER, HALVES, Routers, Split
from .placement import given_loads, notes_of_placement, placement_table
from .placements import METHODS, Cluster, Loads, Placement, placements


@dataclass(frozen=True)
class PlacementDecision:
    """Placements and the table that compares them (the view `placement`)."""

    loads: Loads
    placements: list[Placement]
    table: pa.Table

    def chosen(self, method: str | None) -> Placement:
        """One of them; the most even on the prompts of the fit where no name is given: choosing by the held-out prompts
        would make their number too good.

        Raises:
            DecisionRefused: no such placement.
        """
        rows = [row for row in self.table.to_pylist() if row["layer"] is None]
        name = (
            method
            or max((row for row in rows if row["method"] != "random"), key=lambda row: row["fitted"])[
                "method"
            ]
        )
        check_method(name)
        return next(one for one in self.placements if one.method == name)


def check_method(method: str | None) -> None:
    """Refuse a name that is no placement, before any is made."""
    if method is not None and method not in METHODS:
        raise DecisionRefused(f"there is no placement {method!r}; there are: {', '.join(METHODS)}")


def decide_placement(
    trace: TraceRows,
    cluster: Cluster,
    *,
    split: Split = HALVES,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    seconds: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> PlacementDecision:
    """Make all placements of `METHODS`, and compare them on prompts that they were not fitted on."""
    given, note = given_loads(trace, routers, tokens, split)
    made = placements(given, cluster, seed=split.seed, seconds=seconds, progress=progress)
    table = placement_table(given, made, cluster.devices, split.seed)
    return PlacementDecision(given, made, with_notes(table, notes_of_placement(given, cluster, note, tokens)))

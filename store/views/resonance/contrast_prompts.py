"""Which prompts a contrast compares."""

from __future__ import annotations

import pyarrow as pa

from ...notes import with_notes
from ...read.selection import Where
from ...read.trace_rows import TraceRows
from ...response_classes import Classes, Rules
from ..registry import view
from .sides import Group, sides_of

_TEXT = ("prompt_id", "language", "parallel_id", "text", "generated")


@view("contrast-prompts")
def contrast_prompts(
    trace: TraceRows,
    *,
    target: Group,
    rest: Group = None,
    by: str = "group",
    where: Where | None = None,
    rules: Rules | str | None = None,
    classes: Classes | str | None = None,
) -> pa.Table:
    """The prompts of both groups of a contrast.

    Args:
        target, rest, by, where, rules, classes: as in `resonance`.
    Returns:
        side (target or rest), prompt_id, language, parallel_id, text, generated; in the order they were
        traced.
    """
    sides = sides_of(trace, by, target, rest, where, rules, classes)
    chosen = trace.prompts().select(list(_TEXT)).add_column(0, "side", pa.array(sides.labels_P, pa.string()))
    return with_notes(chosen.filter(chosen["side"].is_valid()), [sides.target, sides.rest])

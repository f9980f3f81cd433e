"""Which prompts a contrast compares."""

from __future__ import annotations

import pyarrow as pa

from ...notes import with_notes
from ...read.trace_rows import TraceRows
from ..registry import view
from .sides import BY_GROUP, Group, Grouping

_TEXT = ("prompt_id", "language", "parallel_id", "text", "generated")


@view("contrast-prompts")
def contrast_prompts(trace: TraceRows, *, target: Group, grouping: Grouping = BY_GROUP) -> pa.Table:
    """The prompts of both groups of a contrast.

    Args:
        target: values of `by` (comma between), or a SELECT of prompt ids.
    Returns:
        side (target or rest), prompt_id, language, parallel_id, text, generated; in the order they were
        traced.
    """
    sides = grouping.sides(trace, target)
    chosen = trace.prompts().select(list(_TEXT)).add_column(0, "side", pa.array(sides.labels_P, pa.string()))
    return with_notes(chosen.filter(chosen["side"].is_valid()), [sides.target, sides.rest])

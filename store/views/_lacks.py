"""What a trace may lack, and which views can then say nothing: a table of zeros would look like a measurement.

Imports often hold less than a trace that moescope recorded: counts without events, events without token ids,
prompts without a language.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import pyarrow as pa

from ...kernels.statistics.bootstrap import FEWEST_UNITS
from ..read.trace_rows import TraceRows

Need = Literal["events", "token_numbers", "token_ids", "languages"]


def _events(trace: TraceRows) -> bool:
    return trace.num_events > 0 or not _has_sums(trace)


def _has_sums(trace: TraceRows) -> bool:
    return any(entry.files["rollups"].rows for entry in trace.parts)


def _token_numbers(trace: TraceRows) -> bool:
    made_from = trace.manifest.settings.get("import")
    return not (isinstance(made_from, Mapping) and made_from.get("tokens") == "choices")


def _token_ids(trace: TraceRows) -> bool:
    return any(piece["token_id"].null_count < len(piece) for piece in trace.iter_token_parts(["token_id"]))


def _languages(trace: TraceRows) -> bool:
    return any(name is not None for name in trace.groups("language").names)


_HAS: Mapping[Need, tuple[Callable[[TraceRows], bool], str]] = {
    "events": (
        _events,
        "The trace holds counts only, and no single events: which experts a token chose is unknown, so there is "
        "nothing to show.",
    ),
    "token_numbers": (
        _token_numbers,
        "How many tokens the counts are of is unknown: {view} can't be computed. Import them with top_k, or with a "
        "column tokens.",
    ),
    "token_ids": (_token_ids, "The tokens have no ids, and {view} tells tokens apart by id."),
    "languages": (_languages, "No prompt has a language, and {view} has a row for each language."),
}
_DECIDES: tuple[Need, ...] = ("events", "token_numbers")
"""Needs without which a view may still make rows, of zeros; without the others its table is empty by itself."""


def lacks(trace: TraceRows, view: str, needs: Sequence[Need]) -> str | None:
    """What the trace lacks that the view can't do without, in a sentence; None where it lacks nothing."""
    return next(
        (_HAS[need][1].format(view=view) for need in needs if need in _DECIDES and not _HAS[need][0](trace)),
        None,
    )


def why_empty(trace: TraceRows, view: str, needs: Sequence[Need], notes: Sequence[str]) -> str | None:
    """Why a table came out empty, as far as that can be told; None where a note says so already."""
    if not trace.num_prompts:
        return "The trace holds no prompts yet."
    for need in needs:
        if not _HAS[need][0](trace):
            return _HAS[need][1].format(view=view)
    if any(note.startswith(("No ", "Only ", "Left out", "There is no", "0 ")) for note in notes):
        return None
    return f"No rows: the trace, or the selected part of it, has nothing that {view} shows."


def limits(trace: TraceRows, view: str) -> list[str]:
    """What must be known beside every figure of a trace that holds counts only."""
    if trace.num_events or not _has_sums(trace):
        return []
    if not _token_numbers(trace):
        return [
            "Counts only, tokens unknown: each choice is counted as a token, so the shares of a layer sum to 1."
        ]
    return [
        "Counts only: one sequence of the file may be the sum of many texts, which are then one unit here."
    ]


FEW_UNITS = (
    f"A value from fewer than {FEWEST_UNITS} units has no interval: an interval from 3 units would hold "
    "the true value in 69 to 75 % of cases instead of 95 %."
)
_UNITS = ("units", "sequences", "prompts")


def few_units(table: pa.Table) -> list[str]:
    """What to say beside points that have no interval because too few units carry them."""
    counted = next((name for name in _UNITS if name in table.column_names), None)
    if counted is None or "low" not in table.column_names or not table.num_rows:
        return []
    alone = table["low"].is_null().to_pylist()
    units = table[counted].to_pylist()
    few = any(missing and 0 < (n or 0) < FEWEST_UNITS for missing, n in zip(alone, units, strict=True))
    return [FEW_UNITS] if few else []

"""The warning about NaN in a router's logits, on the page and on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import words

if TYPE_CHECKING:
    from ...store import Trace

SHOWN = 3


def nan_notice(trace: Trace) -> str | None:
    """How many events, and in which prompts and layers the first of them are; None where there are none."""
    events = sum(entry.nan_tokens for entry in trace.parts)
    if not events:
        return None
    places = [
        f"prompt {row['prompt_id']} at layer {row['layer']}"
        + ("" if row["stream"] == "decoder" else f" ({row['stream']})")
        for row in trace.nan_rows().to_pylist()
    ]
    where = words.listing(places, most=SHOWN)
    return f"{words.amount(events, 'routing event')} had NaN in the router's logits: {where}."

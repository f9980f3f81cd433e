"""Layers as people write them: all, one, a window."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UnknownColumn
from ..read.trace_rows import TraceRows


def layers_of(trace: TraceRows, layers: str | int | Sequence[int] | None, stream: str) -> list[int]:
    """The MoE layers of a stream, or those of a window such as `3:6` (both ends in) or `3,5`.

    Raises:
        UnknownColumn: not a window, or no router there.
    """
    all_layers = [spec.layer for spec in trace.select_routers(None, stream)]
    if layers is None or layers == "":
        return all_layers
    if isinstance(layers, int):
        wanted = {layers}
    elif isinstance(layers, str):
        wanted = _window(layers, all_layers)
    else:
        wanted = {int(layer) for layer in layers}
    found = [layer for layer in all_layers if layer in wanted]
    if not found or (":" not in str(layers) and len(found) < len(wanted)):
        raise UnknownColumn(f"no router at layers {layers}; stream {stream!r} has {all_layers}")
    return found


def _window(text: str, all_layers: list[int]) -> set[int]:
    try:
        if ":" in text:
            first, last = text.split(":")
            low = int(first) if first else min(all_layers)
            return set(range(low, min(int(last or max(all_layers)), max(all_layers)) + 1))
        return {int(layer) for layer in text.split(",")}
    except ValueError:
        raise UnknownColumn(f"layers are {text!r}; write 3:6 (from 3 to 6) or 3,5") from None

"""Where the boxes and ribbons of a Sankey picture lie: for the interactive picture and the printed one alike."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import pyarrow as pa

OTHER = -1
"""The box of all flows that are not shown one by one."""
GAP = 0.012
"""Space between two boxes of a layer, as a share of the height."""
LEAST_SHOWN = 0.25
"""Where the single flows carry less of the tokens, all others are not drawn: they would press them flat."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """One expert of one layer, or all others."""

    layer: int
    expert: int
    """OTHER for all others."""
    column: int
    low: float
    high: float
    """Ends of the box, from 0 (top) to 1."""
    tokens: int

    @property
    def name(self) -> str:
        return "other flows" if self.expert == OTHER else f"{self.layer}.{self.expert}"


@dataclass(frozen=True, kw_only=True)
class Ribbon:
    """One flow."""

    source: int
    target: int
    """Numbers of boxes."""
    tokens: int
    share: float
    lift: float | None
    from_low: float
    to_low: float
    thickness: float
    colour: int | None = None
    """Number of the box whose colour it has; its source where None."""
    path: str | None = None
    """The whole path that it is a piece of."""


def layout(flows: pa.Table) -> tuple[list[Box], list[Ribbon]]:
    """Boxes by layer, and ribbons between them.

    Args:
        flows: the view `flows`.
    """
    rows = flows.to_pylist()
    pairs = {(row["from_layer"], row["to_layer"]) for row in rows}
    if sum(row["share"] for row in rows if row["lift"] is not None) < LEAST_SHOWN * len(pairs):
        rows = [row for row in rows if row["lift"] is not None]
    layers = list(dict.fromkeys([row["from_layer"] for row in rows] + [row["to_layer"] for row in rows]))
    layers.sort()
    into, out = defaultdict(int), defaultdict(int)
    for row in rows:
        for sums, layer, expert in (
            (out, row["from_layer"], row["from_expert"]),
            (into, row["to_layer"], row["to_expert"]),
        ):
            sums[layer, OTHER if expert is None else expert] += row["tokens"]
    sizes = {key: max(into[key], out[key]) for key in {*into, *out}}
    boxes = _boxes(layers, sizes, rows)
    number = {(box.layer, box.expert): i for i, box in enumerate(boxes)}
    return boxes, _ribbons(boxes, number, rows)


def _boxes(layers: list[int], sizes: dict[tuple[int, int], int], rows: list[dict]) -> list[Box]:
    most = max((sum(n for (at, _), n in sizes.items() if at == layer) for layer in layers), default=1)
    boxes: list[Box] = []
    centre: dict[tuple[int, int], float] = {}
    for column, layer in enumerate(layers):
        own = [key for key in sizes if key[0] == layer]
        own.sort(key=lambda key: (key[1] == OTHER, _pull(key, rows, centre), -sizes[key]))
        scale = (1 - GAP * max(len(own) - 1, 0)) / most
        low = 0.0
        for key in own:
            high = low + sizes[key] * scale
            centre[key] = (low + high) / 2
            boxes.append(
                Box(layer=layer, expert=key[1], column=column, low=low, high=high, tokens=sizes[key])
            )
            low = high + GAP
    return boxes


def _pull(key: tuple[int, int], rows: list[dict], centre: dict[tuple[int, int], float]) -> float:
    """Mean place of what flows into a box: boxes in this order cross few ribbons."""
    into = [
        (centre.get((row["from_layer"], row["from_expert"]), 0.0), row["tokens"])
        for row in rows
        if (row["to_layer"], row["to_expert"]) == key and row["from_expert"] is not None
    ]
    total = sum(tokens for _, tokens in into)
    return sum(place * tokens for place, tokens in into) / total if total else 1.0


def _ribbons(boxes: list[Box], number: dict[tuple[int, int], int], rows: list[dict]) -> list[Ribbon]:
    ends = []
    for row in rows:
        source = number[row["from_layer"], OTHER if row["from_expert"] is None else row["from_expert"]]
        target = number[row["to_layer"], OTHER if row["to_expert"] is None else row["to_expert"]]
        ends.append((source, target, row))
    # Ribbons leave a box in the order in which their other ends stand, so they don't cross within it.
    from_low, to_low = {}, {}
    for places, near, far in ((from_low, 0, 1), (to_low, 1, 0)):
        used = {i: box.low for i, box in enumerate(boxes)}
        for at in sorted(range(len(ends)), key=lambda at: (ends[at][near], boxes[ends[at][far]].low)):
            box = boxes[ends[at][near]]
            places[at] = used[ends[at][near]]
            used[ends[at][near]] += ends[at][2]["tokens"] / max(box.tokens, 1) * (box.high - box.low)
    return [
        Ribbon(
            source=source, target=target, tokens=row["tokens"], share=row["share"], lift=row["lift"],
            from_low=from_low[at], to_low=to_low[at],
            thickness=row["tokens"] / max(boxes[source].tokens, 1) * (boxes[source].high - boxes[source].low),
        )
        for at, (source, target, row) in enumerate(ends)
    ]  # fmt: skip

"""Boxes and ribbons of parallel categories: a column for each layer, a box for each expert told apart in it, and each
path as one ribbon through all columns."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pyarrow as pa

from .sankey_layout import GAP, OTHER, Box, Ribbon


def parallel_layout(paths: pa.Table) -> tuple[list[Box], list[Ribbon]]:
    """Where all of it lies, in the manner of `sankey_layout.layout`.

    Args:
        paths: the view `path-groups`.
    Returns:
        Boxes by column, and a ribbon for each path between two columns; it has the colour of the path's first box.
    """
    rows = paths.to_pylist()
    if not rows:
        return [], []
    routes = [tuple(OTHER if e is None else e for e in row["experts"]) for row in rows]
    layers, counts = rows[0]["layers"], [row["count"] for row in rows]
    columns = [_column(routes, counts, column, layer) for column, layer in enumerate(layers)]
    place = [{box.expert: number for number, box in enumerate(column)} for column in columns]
    scale = [_scale(len(column), sum(counts)) for column in columns]
    lows = [_lows(routes, counts, place, columns, scale, column) for column in range(len(layers))]
    first_of = [sum(len(column) for column in columns[:at]) for at in range(len(columns))]
    ribbons = []
    for a, b in pairwise(range(len(layers))):
        for number, route in enumerate(routes):
            ribbons.append(
                _ribbon(rows[number], first_of[a] + place[a][route[a]], first_of[b] + place[b][route[b]],
                        lows[a][number], lows[b][number], counts[number] * scale[a], place[0][route[0]])
            )  # fmt: skip
    return [box for column in columns for box in column], ribbons


def _ribbon(
    row: dict[str, Any], source: int, target: int, low: float, to: float, thickness: float, colour: int
) -> Ribbon:
    return Ribbon(source=source, target=target, tokens=row["count"], share=row["share"], lift=row["ratio"],
                  from_low=low, to_low=to, thickness=thickness, colour=colour, path=row["path"])  # fmt: skip


def _scale(boxes: int, tokens: int) -> float:
    """Height of a token in a column."""
    return (1 - GAP * (boxes - 1)) / max(tokens, 1)


def _column(routes: list[tuple[int, ...]], counts: list[int], column: int, layer: int) -> list[Box]:
    """The boxes of a layer, most used on top, the others at the bottom."""
    tokens: dict[int, int] = {}
    for route, count in zip(routes, counts, strict=True):
        tokens[route[column]] = tokens.get(route[column], 0) + count
    order = sorted(tokens, key=lambda expert: (expert == OTHER, -tokens[expert], expert))
    boxes, low, scale = [], 0.0, _scale(len(order), sum(counts))
    for expert in order:
        high = low + tokens[expert] * scale
        boxes.append(
            Box(layer=layer, expert=expert, column=column, low=low, high=high, tokens=tokens[expert])
        )
        low = high + GAP
    return boxes


def _lows(
    routes: list[tuple[int, ...]],
    counts: list[int],
    place: list[dict[int, int]],
    columns: list[list[Box]],
    scale: list[float],
    column: int,
) -> list[float]:
    """Where each path begins in its box: paths in the order of their boxes so far, so that bundles stay together."""
    low = [box.low for box in columns[column]]
    found = [0.0] * len(routes)

    def before(number: int) -> list[int]:
        route = routes[number]
        return [place[at][route[at]] for at in [column, *range(len(route))]]

    for number in sorted(range(len(routes)), key=before):
        box = place[column][routes[number][column]]
        found[number] = low[box]
        low[box] += counts[number] * scale[column]
    return found

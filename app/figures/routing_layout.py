"""Where a routing map's cells, margins and axes stand, before anything is drawn.

Rows are (stream, layer) pairs, ranks are places within a row. Both are plain numbers on quantitative axes,
so the margins can lie beyond the cells in the same view. Shape legend: C cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import altair as alt
import numpy as np
import pyarrow as pa

from ...store.schema import RouterKey
from .look import depth_title

Sort = Literal["id", "load"]

ROW_PIXELS = (7.0, 30.0)
MAP_PIXELS = 540
TOP_PIXELS = 40
RIGHT_SHARE = 0.09
INPUT_SIDE_STREAMS = {"vision": 0, "audio": 1, "encoder": 2}
"""Streams that a model runs before its decoder: they stand beneath it."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Every cell's place."""

    routers: list[RouterKey]
    """By row, from the bottom of the picture to its top."""
    row_C: np.ndarray
    rank_C: np.ndarray
    expert_C: np.ndarray
    value_C: np.ndarray
    """float64, NaN where unknown."""
    by_id: bool
    """Whether ranks are expert ids."""
    upwards: bool
    """Whether the model's input is at the bottom."""

    @property
    def num_ranks(self) -> int:
        """The widest row."""
        return int(self.rank_C.max()) + 1

    @property
    def row_labels(self) -> list[str]:
        several = len({stream for stream, _ in self.routers}) > 1
        return [f"{stream} {layer}" if several else str(layer) for stream, layer in self.routers]


def lay_out(table: pa.Table, value: str, *, sort: Sort = "id", reverse: bool = False) -> Layout:
    """Rows from the model's input upwards (`reverse`: downwards), ranks by expert id or by falling value.

    Args:
        table: columns layer, expert, `value`, and optionally stream; one row a cell.
    """
    routers_C = routers_of(table)
    routers = sorted(set(routers_C), key=lambda r: (INPUT_SIDE_STREAMS.get(r.stream, 9), *r))
    if reverse:
        routers.reverse()
    row_of = {router: row for row, router in enumerate(routers)}
    row_C = np.array([row_of[router] for router in routers_C])
    expert_C = table["expert"].to_numpy().astype(np.int64)
    value_C = table[value].to_numpy().astype(np.float64)
    rank_C = expert_C if sort == "id" else _rank_by_value(row_C, expert_C, value_C)
    return Layout(
        routers=routers, row_C=row_C, rank_C=rank_C, expert_C=expert_C, value_C=value_C,
        by_id=sort == "id", upwards=not reverse,
    )  # fmt: skip


def routers_of(table: pa.Table) -> list[RouterKey]:
    """The router of every row; the stream is `decoder` where the table has no such column."""
    layers = table["layer"].to_pylist()
    streams = table["stream"].to_pylist() if "stream" in table.column_names else ["decoder"] * len(layers)
    return list(map(RouterKey, streams, layers))


def _rank_by_value(row_C: np.ndarray, expert_C: np.ndarray, value_C: np.ndarray) -> np.ndarray:
    falling_C = np.where(np.isnan(value_C), np.inf, -value_C)
    order_C = np.lexsort((expert_C, falling_C, row_C))
    starts = np.searchsorted(row_C[order_C], np.arange(row_C.max() + 1))
    rank_C = np.empty_like(order_C)
    rank_C[order_C] = np.arange(len(order_C)) - starts[row_C[order_C]]
    return rank_C


@dataclass(frozen=True, kw_only=True)
class PlotFrame:
    """Axis extents in cell units; the margins lie beyond the cells."""

    layout: Layout
    right: float
    """Width of the right margin in ranks, 0 without one."""

    @property
    def rows(self) -> int:
        return len(self.layout.routers)

    @property
    def ranks(self) -> int:
        return self.layout.num_ranks

    @property
    def step(self) -> float:
        """Pixels a row."""
        return min(max(MAP_PIXELS / self.rows, ROW_PIXELS[0]), ROW_PIXELS[1])

    @property
    def top(self) -> float:
        """Height of the top margin in rows."""
        return TOP_PIXELS / self.step

    @property
    def cells_end(self) -> tuple[float, float]:
        """Where the margins begin: (ranks, rows)."""
        return self.ranks - 0.5 + self.ranks * 0.012, self.rows - 0.5 + 8 / self.step

    @property
    def height(self) -> int:
        return round((self.cells_end[1] + 0.5 + self.top) * self.step)

    def x(self, field: str) -> alt.X:
        end = self.cells_end[0] + self.right if self.right else self.ranks - 0.5
        scale = alt.Scale(domain=[-0.5, end], nice=False, zero=False)
        return alt.X(f"{field}:Q", scale=scale, axis=rank_axis(self.layout))

    def y(self, field: str) -> alt.Y:
        scale = alt.Scale(domain=[-0.5, self.cells_end[1] + self.top], nice=False, zero=False)
        return alt.Y(f"{field}:Q", scale=scale, axis=row_axis(self.layout, self.rows * self.step))


def every_expert(experts: int) -> int:
    """Of how many experts one is named on an axis."""
    return next(n for n in (1, 2, 4, 8, 16, 32, 64, 128, 1 << 30) if experts / n <= 34)


def every_layer(layers: int) -> int:
    """Of how many layers one is named on an axis."""
    return 1 if layers <= 36 else 5 if layers <= 120 else 10


def rank_axis(layout: Layout) -> alt.Axis:
    every = every_expert(layout.num_ranks)
    return alt.Axis(
        title="expert" if layout.by_id else "experts of each layer, largest value first",
        values=list(range(0, layout.num_ranks, every)), grid=False, ticks=False, domain=False,
        labelExpr="datum.value" if layout.by_id else "datum.value + 1", titleAnchor="start",
        labelOverlap=True,
    )  # fmt: skip


def row_axis(layout: Layout, pixels: float) -> alt.Axis:
    rows = len(layout.routers)
    every = every_layer(rows)
    return alt.Axis(
        title=depth_title(layout.upwards, pixels),
        values=[row for row, (_, layer) in enumerate(layout.routers) if layer % every == 0],
        labelExpr=f"{layout.row_labels!r}[datum.value]", grid=False, ticks=False, domain=False,
        labelOverlap=True, titleAnchor="start",
    )  # fmt: skip

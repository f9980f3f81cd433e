"""How `moescope evaluate` shows a table to people, and how far it is."""

from __future__ import annotations

import sys
import time
from typing import Any

import click
import pyarrow as pa

LINE_SECONDS = 10.0


def for_people(table: pa.Table) -> pa.Table:
    """Intervals as one cell each; changes of perplexity, which are relative, in percent."""

    def cell(row: dict[str, Any], *names: str) -> str:
        values = [row[name] for name in names]
        if any(value is None for value in values):
            return "–"
        form = "+.3%" if row["measure"] == "perplexity" else "+.4g"
        texts = [f"{value:{form}}" for value in values]
        return texts[0] + f" ({texts[1]} to {texts[2]})" if len(texts) == 3 else f"{texts[0]} to {texts[1]}"

    rows = []
    for row in table.to_pylist():
        rows.append(
            {name: row[name] for name in ("measure", "group", "base", "steered")}
            | {"change (95 %)": cell(row, "change", "low", "high")}
            | {f"random × {row['draws']}": cell(row, "random_low", "random_high")}
            | {"other layers": cell(row, "layers", "layers_low", "layers_high")}
            | {"opposite": cell(row, "opposite", "opposite_low", "opposite_high")}
            | {"finding": "yes" if row["finding"] else f"no: {row['why']}", "p draws": row["p_draws"]}
            | {"units": row["units"]}
        )  # fmt: skip
    return pa.Table.from_pylist(rows)


class Steps:
    """Progress by forward passes: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> Steps:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("evaluate", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, progress: dict[str, Any]) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=progress["done"], total=progress["total"])
        elif time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            click.echo(f"{progress['done']:,}/{progress['total']:,} steps", err=True)

"""How far long work is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from ...tracer.run.trace import Progress as TraceProgress

LINE_SECONDS = 10.0
"""Between two lines where there is no terminal."""


class _Running:
    """The bar, or the lines, of one piece of work."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.percentage:>3.0f} %"), BarColumn(), TextColumn("{task.fields[words]}"),
                TimeRemainingColumn(), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("", total=None, words="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _say(self, words: str, done: float, total: float, left: str = "") -> None:
        """`left` only for a line: a bar counts the time itself."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total or None, words=words)
        elif time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            click.echo(words + left, err=True)


class Meter(_Running):
    """Of a trace: prompts, tokens a second and the time left."""

    def tell(self, progress: TraceProgress) -> None:
        left = "" if progress.eta_seconds is None else f" · {progress.eta_seconds:.0f} s left"
        words = f"{progress.prompts:,}/{progress.total_prompts:,} prompts · {progress.tokens_per_second:,.0f} tokens/s"
        self._say(words, progress.tokens, progress.total_tokens, left)


class Steps(_Running):
    """Of an evaluation: forward passes."""

    def tell(self, progress: dict[str, Any]) -> None:
        done, total = progress["done"], progress["total"]
        self._say(f"{done:,}/{total:,} steps", done, total)

"""`moescope report` and `moescope bundle`: figures of a trace with their words, as files that leave the machine."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...store.files.whole import write_whole
from ..text.words import amount
from .output import open_with_warnings

if TYPE_CHECKING:
    from ..reports.report import Report

STANDARD = ("load", "load-balance", "routing-entropy", "routing-consistency", "expert-half-life", "alignment")
"""Views of a report for which none is named; those that a trace has nothing for are left out."""


def _views(words: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
    """`load?by=language&phase=decode` → ("load", {"by": "language", "phase": "decode"})."""
    from urllib.parse import parse_qsl

    from ...store import views
    from .view_options import parse

    found = []
    for word in words:
        name, _, query = word.partition("?")
        name = name.replace("_", "-")
        if name not in views.names():
            raise click.UsageError(f"there is no view {name!r}; there are: {', '.join(views.names())}")
        options = tuple(f"--{key}={value}" for key, value in parse_qsl(query, keep_blank_values=True))
        found.append((name, parse(options, views.parameters(name))))
    return found


def _made(traces: tuple[str, ...], words: tuple[str, ...], pinned: str | None, title: str | None) -> Report:
    """The report: pinned entries of the library, views of the traces, or both."""
    from ...store import StoreError, default_library
    from ..reports.make import item_of_view
    from ..reports.report import load, merged

    items: list[Any] = []
    name = pinned or "report"
    if pinned is not None:
        kept = load(default_library(), pinned)
        if not kept.items:
            raise click.ClickException(f"the library holds no report {pinned!r}")
        items, title = list(kept.items), title or kept.title
    chosen = _views(words)
    opened = [(url, open_with_warnings(url)) for url in traces]
    for url, trace in opened:
        for view, params in chosen or [(view, {}) for view in (STANDARD if pinned is None else ())]:
            try:
                made = item_of_view(trace, Path(url.rstrip("/")).name or url, view, params)
            except StoreError as error:
                if chosen:
                    raise click.ClickException(f"{url}: {view}: {error}") from None
                click.echo(f"note: {url}: {view} is left out: {error}", err=True)
                continue
            if not chosen and (table := made.table()) is not None and not table.num_rows:
                click.echo(f"note: {url}: {view} is left out: {made.say}", err=True)
                continue
            click.echo(f"{url}: {view}", err=True)
            items.append(made)
    if not items:
        raise click.UsageError("name a trace, or a report of the library with --pinned")
    return merged(
        name, title or f"Routing of {', '.join(Path(url.rstrip('/')).name for url in traces)}", items
    )


def figures(out: Any) -> Callable[..., Callable[..., Any]]:
    """The arguments that both commands share: what goes in, where it goes, and --json."""
    options = (
        click.argument("traces", metavar="TRACE...", nargs=-1),
        click.option(
            "--view", "words", multiple=True, metavar="VIEW",
            help="A view, with its options as in 'load?by=language'; may be given again. Default: a standard set.",
        ),
        click.option("--pinned", metavar="NAME", help="Start from this saved report of the library."),
        click.option("--title", help="Title of the report."),
        out,
        click.option("--json", "as_json", is_flag=True, help="What was written, as JSON on stdout."),
    )  # fmt: skip

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(out: Path, as_json: bool, **asked: Any) -> None:
            written, entries = command(out, asked)
            if as_json:
                click.echo(json.dumps({"out": str(written), "entries": entries}))
            else:
                click.echo(f"{amount(entries, 'entry', 'entries')} → {written}")

        for option in reversed(options):
            call = option(call)
        return call

    return add


@click.command("report")
@figures(
    click.option(
        "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
        help="A file ending in .html or .pdf.",
    )
)  # fmt: skip
def report_command(out: Path, asked: dict[str, Any]) -> tuple[Path, int]:
    """Figures, numbers, sentences and methods of a trace in one file.

    The HTML page holds everything that it needs and opens offline; the PDF has one entry per page.

    \b
    Example:
      moescope report my-trace --out report.html
      moescope report my-trace --view load --view 'alignment?pivot=en' --out report.pdf
    """
    kind = out.suffix.lower()
    if kind not in (".html", ".pdf"):
        raise click.UsageError(f"--out ends in {kind or 'nothing'}; it takes .html or .pdf")
    from ..reports import pdf, render

    report = _made(**asked)
    write_whole(out, render.to_html(report) if kind == ".html" else pdf.to_pdf(report))
    return out, len(report.items)


@click.command("bundle")
@figures(
    click.option(
        "--out", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="A new folder."
    )
)  # fmt: skip
def bundle_command(out: Path, asked: dict[str, Any]) -> tuple[Path, int]:
    """Write a folder to share: report, figures for print, tables, methods and fingerprints.

    \b
    Example:
      moescope bundle my-trace other-trace --view load --out study/
    """
    from ..reports.bundle import write_bundle

    report = _made(**asked)
    return write_bundle(report, out), len(report.items)

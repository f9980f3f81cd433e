"""Looking at a trace: info, view, sql."""

from __future__ import annotations

import inspect
import json
import types
from pathlib import Path
from typing import Any

import click

from ..text.literal import visible
from ..text.words import amount
from .output import Lines, as_text, format_options, json_ready, open_with_warnings, write_table
from .view_options import parse

FORM = format_options("Format of the table. Default: by FILE's ending, else an aligned table.")
OUT = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File to write instead of stdout.",
)


@click.command("info")
@click.argument("trace")
@click.option("--json", "as_json", is_flag=True, help="All fields, as JSON.")
@click.option("--verify", is_flag=True, help="Read every byte and compare checksums.")
def info_command(trace: str, as_json: bool, verify: bool) -> None:
    """What a trace holds: model, prompts, routers, size, state.

    \b
    Example:
      moescope info my-trace --json
    """
    from ...store import StoreError, open_trace, trace_address
    from ...store.files.runs import differences
    from ..text.nan_notice import nan_notice

    opened = open_trace(trace_address(trace))
    problems = [str(problem) for problem in (opened.verify(Lines("parts")) if verify else opened.problems)]
    manifest = opened.manifest
    facts = {
        "url": opened.url,
        "state": opened.state,
        "prompts": opened.num_prompts,
        "tokens": opened.num_tokens,
        "events": opened.num_events,
        "nan_events": sum(part.nan_tokens for part in opened.parts),
        "nan": opened.nan_rows().to_pylist(),
        "bytes": sum(file.bytes for part in opened.parts for file in part.files.values()),
        "parts": len(opened.parts),
        "capture": list(manifest.capture),
        "model": manifest.model,
        "prompt_set": manifest.prompt_set,
        "settings": manifest.settings,
        "steering": manifest.steering,
        "versions": manifest.versions,
        "schema_version": manifest.schema_version,
        "checksum": manifest.checksum,
        "runs": manifest.runs,
        "summary": manifest.summary,
        "routers": [router.to_json() for router in opened.routers],
        "problems": problems,
    }
    if as_json:
        click.echo(json.dumps(json_ready(facts), ensure_ascii=False, indent=1))
    else:
        _print_facts(facts)
        if said := nan_notice(opened):
            click.echo(f"  warning  {said}", err=True)
        if differ := differences(manifest):
            click.echo(
                f"  note     resumed with other settings: {visible(differ)}; experts near a tie may differ",
                err=True,
            )
        if manifest.checksum is None:
            click.echo(
                "  note     made before trace.json had a checksum: changes of it are not noticed", err=True
            )
    if verify and problems:
        raise StoreError(f"{trace}: {len(problems)} problems, the first: {problems[0]}")


def _print_facts(facts: dict[str, Any]) -> None:
    import pyarrow as pa

    model = facts["model"].get("name") or facts["model"].get("architecture") or "unknown"
    for name, value in [
        ("trace", facts["url"]),
        ("state", facts["state"]),
        ("model", model),
        ("prompts", f"{facts['prompts']:,}"),
        ("tokens", f"{facts['tokens']:,}"),
        ("events", f"{facts['events']:,} (a token at a router)"),
        ("size", f"{facts['bytes'] / 1e6:.1f} MB in {amount(facts['parts'], 'part')}"),
        ("captured", ", ".join(facts["capture"])),
        ("steering", (facts["steering"] or {}).get("name") or ("yes" if facts["steering"] else "none")),
    ]:
        click.echo(f"{name:>9}  {visible(str(value))}")
    for problem in facts["problems"]:
        click.echo(f"  damaged  {visible(problem)}", err=True)
    shown = ("layer", "stream", "num_experts", "top_k", "scoring", "router")
    rows = [{name: router[name] for name in shown} for router in facts["routers"]]
    if rows:
        click.echo("\n" + as_text(pa.Table.from_pylist(rows)), nl=False)


@click.command(
    "view",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
@click.argument("trace", required=False)
@click.argument("view", required=False)
@click.argument("params", nargs=-1, type=click.UNPROCESSED)
@FORM
@OUT
@click.option("-h", "--help", "wants_help", is_flag=True, help="This text, or that of the view.")
def view_command(
    trace: str | None,
    view: str | None,
    params: tuple[str, ...],
    form: str | None,
    out: Path | None,
    wants_help: bool,
) -> None:
    """A named view of a trace as a table; its parameters are options.

    \b
    Example:
      moescope view my-trace load --by language --format json
      moescope view my-trace alignment --pivot en --where language=ja,ko,en
      moescope view my-trace alignment --help
    """
    from ...store import views
    from ...store.errors import UnknownColumn
    from ...store.notes import notes_of

    view = view and view.replace("_", "-")
    if view is not None:
        try:
            views.get(view)
        except UnknownColumn as error:
            raise click.UsageError(str(error)) from None
    if wants_help or trace is None or view is None:
        _view_help(view, views)
        if not wants_help:
            raise click.UsageError("name a trace and a view")
        return
    table = open_with_warnings(trace).view(view, **parse(params, views.parameters(view)))
    write_table(table, form, out)
    for note in notes_of(table):
        click.echo(f"note: {note}", err=True)


def _view_help(view: str | None, views: types.ModuleType) -> None:
    if view is not None:
        options = " ".join(f"[--{name.replace('_', '-')} …]" for name in views.parameters(view))
        click.echo(f"moescope view TRACE {view} {options}\n\n{views.help_of(view)}")
        return
    click.echo(click.get_current_context().get_help() + "\n\nViews:")
    for name in views.names():
        click.echo(f"  {name:<22} {(inspect.getdoc(views.get(name)) or '').splitlines()[0]}")


@click.command("sql")
@click.argument("trace")
@click.argument("query")
@FORM
@OUT
@click.option("--seconds", type=float, help="Time limit (30 by default).")
@click.option("--rows", type=int, help="Row limit (10,000 by default).")
def sql_command(
    trace: str, query: str, form: str | None, out: Path | None, seconds: float | None, rows: int | None
) -> None:
    """One read-only SELECT over prompts, tokens, events, selections and rollups.

    \b
    Example:
      moescope sql my-trace "SELECT expert, count(*) FROM selections WHERE layer = 3 GROUP BY 1 ORDER BY 2 DESC"
    """
    from ...store.sql.query import TRUNCATED

    limits = {name: value for name, value in (("seconds", seconds), ("rows", rows)) if value is not None}
    table = open_with_warnings(trace).sql(query, **limits)
    write_table(table, form, out)
    cut = (table.schema.metadata or {}).get(TRUNCATED)
    if cut:
        click.echo(f"note: cut at {cut.decode()} rows; --rows takes more", err=True)

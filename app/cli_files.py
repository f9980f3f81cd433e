"""Files in and out: import, export, and prompt sets from templates."""

from __future__ import annotations

from pathlib import Path

import click

EXPORTS = ("duckdb", "parquet", "csv", "jsonl")
IMPORTS = ("neutral", "vllm", "sglang")


@click.command("export")
@click.argument("trace")
@click.option(
    "--format",
    "form",
    type=click.Choice(EXPORTS),
    required=True,
    help="duckdb is one file, the others a folder.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="PATH", help="What to make.")
def export_command(trace: str, form: str, out: Path) -> None:
    """Write a trace as one DuckDB file, or as Parquet, CSV or JSONL tables.

    \b
    Example:
      moescope export my-trace --format duckdb --out my-trace.duckdb
    """
    from ..store import open_trace
    from ..store.export import export_trace

    made = export_trace(open_trace(trace), form, out)
    for path in made if isinstance(made, (list, tuple)) else [made or out]:
        click.echo(f"→ {path}")


@click.command("import")
@click.argument("form", metavar="FORMAT", type=click.Choice(IMPORTS))
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, metavar="TRACE", help="Folder or URL of the new trace.")
def import_command(form: str, path: Path, out: str) -> None:
    """Make a trace of routing events that others recorded: FORMAT is neutral, vllm or sglang.

    \b
    Example:
      moescope import neutral events.parquet --out my-trace
    """
    from ..store import open_trace
    from ..store.importers import import_events

    import_events(form, path, out)
    made = open_trace(out)
    click.echo(
        f"{made.num_prompts:,} sequences, {made.num_tokens:,} tokens, {made.num_events:,} events → {out}"
    )


@click.group("prompts")
def prompts_command() -> None:
    """Make prompt sets.

    \b
    Example:
      moescope prompts expand template.toml --out prompts.csv
    """


@prompts_command.command("expand")
@click.argument("template", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="A CSV or JSONL prompt set.")  # fmt: skip
def expand_command(template: Path, out: Path) -> None:
    """Fill a template's slots in all ways; the values of the slots become tags.

    \b
    Example:
      moescope prompts expand template.toml --out prompts.csv
    """
    from ..tracer.prompts_expand import expand_file
    from ..tracer.prompts_write import write_prompts

    prompts = expand_file(template)
    write_prompts(prompts, out)
    click.echo(f"{len(prompts):,} prompts → {out}")

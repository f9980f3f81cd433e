"""Files in and out: import, export, and prompt sets from templates."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from ...store.importers.formats import FORMATS, OPTIONS
from ..text.words import amount
from .output import Lines, open_with_warnings

EXPORTS = ("duckdb", "parquet", "csv", "jsonl")


def whole_numbers(context: click.Context, option: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 10 for part in parts):
        raise click.BadParameter(f"{value!r}; it takes whole numbers with commas between")
    return [int(part) for part in parts]


def _labels(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, list[str]] | None:
    found: dict[str, list[str]] = {}
    for value in values:
        column, equals, labels = value.partition("=")
        if not (equals and column and labels):
            raise click.BadParameter(f"{value!r}; write column=value,value")
        if column in found:
            raise click.BadParameter(f"{column!r} is given twice")
        found[column] = labels.split(",")
    return found or None


@click.command("export")
@click.argument("trace")
@click.option(
    "--format",
    "form",
    type=click.Choice(EXPORTS),
    required=True,
    help="duckdb is one file, the others a folder.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="PATH", help="File or folder to write."
)
@click.option(
    "--exact", is_flag=True, help="CSV without the apostrophe before text that a spreadsheet would run."
)
@click.option("--json", "as_json", is_flag=True, help="What was written, as JSON on stdout.")
def export_command(trace: str, form: str, out: Path, exact: bool, as_json: bool) -> None:
    """Write a trace as one DuckDB file, or as Parquet, CSV or JSONL tables.

    \b
    Example:
      moescope export my-trace --format duckdb --out my-trace.duckdb
    """
    from ...store.export import export_trace

    made = str(
        export_trace(
            open_with_warnings(trace), out, form, spreadsheet_safe=not exact, progress=Lines("files read")
        )
    )
    click.echo(json.dumps({"out": made, "format": form}) if as_json else f"→ {made}")


@click.command("import")
@click.argument("form", metavar="FORMAT", type=click.Choice(tuple(FORMATS)))
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--out", required=True, metavar="TRACE", help="Folder or URL of the new trace.")
@click.option("--experts", type=click.IntRange(1), help=OPTIONS["experts"])
@click.option("--layers", metavar="3,4,5", callback=whole_numbers, help=OPTIONS["layers"])
@click.option("--top-k", type=click.IntRange(1), help=OPTIONS["top_k"])
@click.option("--num-layers", type=click.IntRange(1), help=OPTIONS["num_layers"])
@click.option("--labels", metavar="COLUMN=A,B", multiple=True, callback=_labels, help=OPTIONS["labels"])
@click.option("--tokenizer", metavar="MODEL", help=OPTIONS["token_text"])
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
def import_command(
    form: str, path: Path, out: str, tokenizer: str | None, as_json: bool, **options: Any
) -> None:
    from ...store.importers import parameters, run

    given = {name: value for name, value in options.items() if value is not None}
    if tokenizer is not None:
        given["token_text"] = token_text(tokenizer)
    unknown = [name for name in given if name not in parameters(form)]
    if unknown:
        name = "tokenizer" if unknown[0] == "token_text" else unknown[0].replace("_", "-")
        raise click.UsageError(f"--{name} does not apply to {form} files")
    made = run(form, path, out, **given)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(made)))
        return
    what = [amount(made.prompts, "sequence"), amount(made.tokens, "token"), amount(made.events, "event")]
    click.echo(f"{', '.join(what)} → {out}")
    for note in made.notes:
        click.echo(f"note: {note}", err=True)


def token_text(tokenizer: str) -> Any:
    from transformers import AutoTokenizer

    # Without it transformers asks whether to run the folder's own code, and a "y" on stdin runs it.
    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        said = " ".join(str(error).split())[:300]
        if "custom code" in said or "trust_remote_code" in said:
            said = "it brings code of its own; give the folder of a tokenizer without any"
        raise click.ClickException(
            f"{tokenizer}: no tokenizer can be loaded (no remote code is run): {said}"
        ) from error
    return lambda ids: [loaded.decode([token]) for token in ids]


import_command.help = f"""Make a trace of routing that others recorded.

\b
FORMAT is one of
{chr(10).join(f"  {name:<8} {row.summary}" for name, row in FORMATS.items())}

\b
Example:
  moescope import neutral events.parquet --out my-trace
  moescope import vllm requests.jsonl --out my-trace --experts 128
  moescope import counts counts.npz --out my-trace --top-k 8 --labels language=en,de
"""


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
    """Expand a template with all combinations of its slots; slot values become tags.

    \b
    Example:
      moescope prompts expand template.toml --out prompts.csv
    """
    from ...tracer.prompts.expand import expand_file
    from ...tracer.prompts.write import write_prompts

    prompts = expand_file(template)
    write_prompts(prompts, out)
    click.echo(f"{amount(len(prompts), 'prompt')} → {out}")


_DELIMITER = click.option(
    "--delimiter", metavar="MARK", help="Column delimiter, where it is not the usual one: ';'"
)
_ENCODING = click.option(
    "--encoding", metavar="NAME", help="Text encoding, where it is not UTF-8: cp1252, utf-16, ..."
)


@prompts_command.command("look")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@_DELIMITER
@_ENCODING
@click.option("--json", "as_json", is_flag=True, help="All findings, as JSON on stdout.")
def look_command(path: Path, as_json: bool, **options: str | None) -> None:
    """Detect format, encoding, delimiter, columns and first prompts of a prompt file.

    \b
    Example:
      moescope prompts look export.csv
    """
    from ...tracer.prompts.look import look_at

    found = look_at(path, **options)
    if as_json:
        click.echo(json.dumps(found.to_json(), ensure_ascii=False))
        return
    columns = ", ".join(f"{column!r} ({role})" for column, role in found.roles.items())
    facts = {
        "format": found.format,
        "encoding": found.encoding,
        "delimiter": found.delimiter and repr(found.delimiter),
    }
    facts |= {
        "layout": found.layout,
        "columns": columns,
        "prompts": found.prompts,
        "can't be read": found.problem,
    }
    for name, value in facts.items():
        if value not in (None, ""):
            click.echo(f"{name:>13}  {value}")
    for note in found.notes:
        click.echo(f"         note  {note}")
    for prompt in found.first:
        click.echo(f"       prompt  {json.dumps(prompt, ensure_ascii=False)[:200]}")
    if found.options and found.problem is None:
        given = " ".join(f"--{name} {value!r}" for name, value in found.options.items())
        click.echo(f"\nmoescope prompts convert {path} --out prompts.jsonl {given}")


@prompts_command.command("convert")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="A CSV, TSV, JSONL or Parquet prompt set.")  # fmt: skip
@_DELIMITER
@_ENCODING
def convert_command(path: Path, out: Path, delimiter: str | None, encoding: str | None) -> None:
    """Convert a prompt file to UTF-8 and moescope's columns.

    \b
    Example:
      moescope prompts convert export.csv --out prompts.jsonl --delimiter ';' --encoding cp1252
    """
    from ...tracer.prompts.prompt_set import PromptSet
    from ...tracer.prompts.write import write_prompts

    prompts = PromptSet.from_file(path, delimiter=delimiter, encoding=encoding or "utf-8")
    write_prompts(prompts, out)
    for note in prompts.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"{amount(len(prompts), 'prompt')} → {out}")

"""`moescope compare`: how far the routing of two traces agrees, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .attribution import print_attribution
from .model_options import model_options
from .output import as_text, format_options, open_with_warnings, write_table

if TYPE_CHECKING:
    import pyarrow as pa

    from ...store.compare import Pairs

ABOVE = 3
"""Exit code where the flip rate is above `--fail-above`."""
VIEWS = ("overall", "tokens", "margin", "experts", "prompts", "sequences")


def _a_rate(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and value != value:
        raise click.BadParameter("nan is not a rate")
    return value


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--by", metavar="COLUMN", help="Split by language, group, a tag, or phase.")
@click.option("--layers", "--layer", "layers", metavar="WINDOW", help="Such as 3:6 (both ends in) or 3,5.")
@click.option("--stream", default="decoder", show_default=True, help="Which routers of a layer.")
@click.option("--view", type=click.Choice(VIEWS), help="View to print instead of the table by layer.")
@click.option("--pair-by", type=click.Choice(("prompt_id", "parallel_id")), default="prompt_id", show_default=True,
              help="How prompts pair; parallel_id (with the language of translations) for clean and perturbed "
              "inputs, token by token by position.")  # fmt: skip
@click.option(
    "--realign",
    "align",
    flag_value="realign",
    help="After a differing token id, continue where the ids agree again.",
)
@click.option("--characters", "align", flag_value="characters",
              help="Pair tokens of two tokenizers by the characters that they cover.")  # fmt: skip
@click.option("--fail-above", type=click.FloatRange(0, 1), metavar="RATE", callback=_a_rate,
              help="Exit with 3 where more than this share of routing decisions flipped.")  # fmt: skip
@click.option(
    "--resamples",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Bootstrap resamples of the prompts.",
)
@click.option(
    "--attribute", metavar="MODEL", help="A's model: run A, B, and A with B's routing, and split the KL."
)
@click.option(
    "--attribute-b", metavar="MODEL", help="B's model. Default: A's, in B's precision, under B's steering."
)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="With --attribute: only the first N prompts."
)
@model_options
@format_options("Print only the table, in this format. Default: by the ending of --out.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the table there."
)
def compare_command(a: str, b: str, **options: Any) -> None:
    """How far the routing of two traces agrees: which tokens use other experts, where, and how far off.

    Tokens pair where prompt id, position and token id are the same; what does not pair is counted. A flip is another
    set of experts. Intervals are 95 % bootstraps over prompts. With a format, only the table is written.

    \b
    Example:
      moescope compare float32-trace bfloat16-trace
      moescope compare trainer-trace engine-trace --fail-above 0.02
      moescope compare a b --by language --layers 3:6 --format csv
      moescope compare a b --attribute sample_data/model --limit 50
    """
    if options["attribute_b"] and not options["attribute"]:
        raise click.UsageError("--attribute-b needs --attribute")
    from ...store.compare import pair_traces, view
    from ...store.notes import notes_of

    pairs = pair_traces(
        open_with_warnings(a),
        open_with_warnings(b),
        pair_by=options["pair_by"],
        align=options["align"] or "ids",
    )
    asked = {name: options[name] for name in ("layers", "stream", "resamples")}
    table = _table(pairs, options["view"], options["by"], asked)
    overall = view(pairs, "agreement-overall", **asked).to_pylist()
    if options["form"] or options["out"]:
        write_table(table, options["form"], options["out"])
    else:
        _print_words(pairs, asked, overall)
        click.echo(as_text(_for_people(table)), nl=False)
    for note in notes_of(table):
        click.echo(f"note: {note}", err=True)
    if options["attribute"]:
        print_attribution(pairs, options)
    _judge(overall, options["fail_above"])


def _table(pairs: Pairs, short: str | None, by: str | None, asked: dict[str, Any]) -> Any:
    from ...store.compare.views import parameters, view

    name = f"agreement-{short}" if short else "agreement"

    params = {key: value for key, value in asked.items() if key in parameters(name)}
    if by is not None and "by" not in parameters(name):
        raise click.UsageError(f"--view {short} cannot be split; leave out --by")
    return view(pairs, name, **params, **({"by": by} if by is not None else {}))


def _print_words(pairs: Pairs, asked: dict[str, Any], overall: list[dict[str, Any]]) -> None:
    from ...store.compare import view
    from ...store.compare.manifests import manifest_differences
    from ...store.noise import noise_between
    from ..sentences import agreement as sentences

    if not overall:
        click.echo("No token of both traces passed a router.\n")
        return
    floor, unknown = noise_between(pairs.a, pairs.b)
    differs = manifest_differences(pairs.a, pairs.b)
    said = [
        sentences.headline(overall[0], "A", "B"),
        sentences.by_layer(view(pairs, "agreement", **asked)),
        sentences.through_layers(view(pairs, "agreement-tokens", **asked)),
        *([sentences.noise(floor, overall[0]["flip_rate"])] if floor else []),
        *unknown,
    ]
    click.echo("\n".join(said) + "\n")
    if differs.num_rows:
        click.echo("What differs between the two runs:\n" + as_text(differs))


def _for_people(table: pa.Table) -> pa.Table:
    """A table that fits a terminal: of the intervals only that of the flip rate."""
    kept = ("flip_rate_low", "flip_rate_high")
    return table.select([n for n in table.column_names if n in kept or not n.endswith(("_low", "_high"))])


def _judge(overall: list[dict[str, Any]], most: float | None) -> None:
    if most is None:
        return
    if not overall:
        raise click.ClickException(
            "no token of both traces passed a router, so --fail-above has nothing to judge"
        )
    rate = overall[0]["flip_rate"]
    if rate > most:
        click.echo(f"moescope: {rate:.4%} of the routing decisions flipped, more than {most:.4%}", err=True)
        raise click.exceptions.Exit(ABOVE)

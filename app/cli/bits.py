"""`moescope bits`: how many bits each expert gets, as a recipe for a quantiser."""

from __future__ import annotations

from typing import Any

import click

from ...store.files.whole import write_whole
from .decision_options import Decision, decision, say
from .output import open_with_warnings


@click.command("bits")
@click.argument("trace")
@click.option("--budget", default=2.5, show_default=True, help="Mean bits of an expert.")
@click.option("--levels", default="2,3,4", show_default=True, help="Bit widths to choose from.")
@click.option(
    "--scope", type=click.Choice(("model", "layer")), default="model", show_default=True,
    help="model: all layers share the budget; layer: each layer keeps it.",
)  # fmt: skip
@click.option(
    "--method", type=click.Choice(("mc-moe", "uniform", "usage", "outliers", "block")), default="mc-moe",
    show_default=True, help="The allocation to write.",
)  # fmt: skip
@click.option(
    "--group",
    default=128,
    show_default=True,
    type=click.IntRange(1),
    help="Quantisation group size in the recipe: inputs that share one scale.",
)
@click.option(
    "--rest",
    default=4,
    show_default=True,
    type=click.IntRange(2, 8),
    help="GPTQModel only: bits of all weights outside the experts.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("json", "gptqmodel", "llm-compressor")),
    default="json",
    show_default=True,
    help="Format of the recipe, by the tool that reads it.",
)
@decision("Write the recipe.")
def bits_command(
    trace: str, budget: float, levels: str, scope: str, method: str, group: int, rest: int, form: Any, asked: Decision
) -> None:  # fmt: skip
    """Compare bit allocations for experts and write one as a recipe; needs the expert sheet (moescope weigh).

    \b
    Example:
      moescope weigh sample_data/model --trace my-trace --bits 2,3,4
      moescope bits my-trace --budget 2.5 --levels 2,3,4 --format gptqmodel --out quantize.json
    """
    from ...store.deliver.recipes import recipe
    from ...store.views.deploy.bits import allocate, bit_costs
    from ..sentences.deploy import bits_answer

    opened = open_with_warnings(trace)
    table = opened.view(
        "bits", budgets=str(budget), levels=levels, scope=scope, fit_where=asked.fit_where, **asked.common
    )
    if asked.out is not None:
        costs = bit_costs(opened, levels, split=asked.split, routers=asked.routers, tokens=asked.tokens)
        found = costs.allocation(allocate(costs, method, budget, scope, asked.seed))
        write_whole(asked.out, recipe(form, found, group, rest))
    say({"method": method, "bits": table}, bits_answer(table, method), table, asked)

"""`moescope evaluate`: what a steering profile does over a prompt set, beside its controls."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...store.files.whole import write_whole
from .engine_options import engine_options, take_engine
from .model_options import SEEDS, load, model_options, profile_in, steering_from
from .output import format_options, write_table

if TYPE_CHECKING:
    import pyarrow as pa

    from ...tracer.evaluate.effects import Evaluation
    from ...tracer.prompts.prompt_set import PromptSet

READ = ("perplexity", "accuracy", "kl", "changed")


def _pairs(context: click.Context, option: click.Parameter, values: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for value in values:
        column, equals, listed = value.partition("=")
        if not (column and equals and listed):
            raise click.BadParameter(f"{value!r}; it takes column=value,value")
        found.setdefault(column, []).extend(listed.split(","))
    return found


def _doses(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[str, list[float]] | None:
    if value is None:
        return None
    kind, _, listed = value.partition("=")
    try:
        numbers = [float(number) for number in listed.split(",")]
    except ValueError:
        numbers = []
    whole = all(number == int(number) and number >= 0 for number in numbers)
    if kind not in ("experts", "amount") or not numbers or (kind == "experts" and not whole):
        raise click.BadParameter(f"{value!r}; it takes experts=1,2,4 or amount=0.25,0.5,1")
    return kind, numbers


@click.command("evaluate")
@click.argument("model")
@click.argument("prompts", type=click.Path(dir_okay=False))
@click.option("--steer", required=True, metavar="PROFILE.json", type=click.Path(dir_okay=False),
              help="The steering profile.")  # fmt: skip
@model_options
@engine_options
@click.option("--by", metavar="COLUMN", help="Split effects by language, group or a tag; by default by language, "
              "or else group, where the prompts have several.")  # fmt: skip
@click.option(
    "--target",
    metavar="VALUE",
    help="One value of --by; also report its effect minus the effect on all other values.",
)
@click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE,...", callback=_pairs, help="Only these prompts."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N prompts.")
@click.option("--controls", type=click.IntRange(0), default=5, show_default=True,
              help="Random-expert controls. A finding needs at least 5; the smallest p is 1/(N+1), "
    "0.05 with 19.")  # fmt: skip
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of the draws.")
@click.option("--chat", is_flag=True, help="Apply the tokenizer's chat template.")
@click.option("--max-new-tokens", type=click.IntRange(0), default=0, show_default=True,
              help="Tokens to generate after each prompt, for --classes.")  # fmt: skip
@click.option("--classes", type=click.Path(dir_okay=False), metavar="RULES.json",
              help='Response classes, {"class": ["regular expression", ...]}.')  # fmt: skip
@click.option(
    "--batch-tokens",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Padded tokens in a batch.",
)
@click.option("--dose", callback=_doses, metavar="WHAT=N,N,...",
              help="A dose curve: experts=1,2,4 (of the ranking's top) or amount=0.25,0.5,1.")  # fmt: skip
@click.option("--ranking", type=click.Path(dir_okay=False), metavar="TABLE.csv",
              help="Experts for --dose, strongest first: columns layer and expert.")  # fmt: skip
@format_options("By the ending of --out, else a table.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file.")
@click.option("--keep", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.json",
              help="Also keep the whole evaluation: every prompt, every control.")  # fmt: skip
def evaluate_command(model: str, prompts: str, steer: str, **options: Any) -> None:
    """Measure what a steering profile does over a prompt set, and what its controls do.

    Perplexity, accuracy (of prompts with choices), KL, share of routing changed and behaviour, each with a 95 %
    bootstrap interval over prompts (translations of one text are resampled together). The controls are random
    draws of as many experts of the same layers, the same rules in other layers, and the opposite sign. An effect is
    called a finding only where its interval lies beyond 0 and beyond every control's. JSON, CSV and Parquet hold
    every control in a row of its own.

    \b
    Example:
      moescope evaluate sample_data/model sample_data/help_parallel.csv --steer off.json \\
        --where language=ja,ko,en --target ja
      moescope evaluate sample_data/model prompts.csv --steer off.json --dose experts=1,2,4,8
    """
    if options["ranking"] and not (options["dose"] and options["dose"][0] == "experts"):
        raise click.UsageError("--ranking needs --dose experts=...")
    if options["classes"] and not options["max_new_tokens"]:
        raise click.UsageError("--classes needs --max-new-tokens: there are no answers to classify")
    from ...store.response_classes import read_rules

    rules = read_rules(options["classes"]) if options["classes"] else None
    chosen = _prompts(prompts, options)
    by = options["by"] or _column(chosen)
    _check(chosen, by, options["target"])
    engine = take_engine(options)
    from .progress import Steps

    if engine is not None:
        with Steps() as steps:
            evaluation = _run_in_vllm(model, chosen, profile_in(steer), options, engine, steps.tell)
    else:
        loaded = load(model, options)
        with Steps() as steps:
            evaluation = _run(loaded, chosen, steering_from(steer, loaded.model), options, steps.tell)
    if options["keep"]:
        write_whole(options["keep"], json.dumps(evaluation.to_json(), ensure_ascii=False))
    for note in evaluation.notes:
        click.echo(f"note: {note}", err=True)
    write_table(_table(evaluation, by, rules, options), options["form"], options["out"])


def _prompts(path: str, options: dict[str, Any]) -> PromptSet:
    from ...tracer.prompts.prompt import PromptSetError
    from ...tracer.prompts.prompt_set import PromptSet

    found = PromptSet.from_file(path)
    for column, values in options["where"].items():
        kept = tuple(prompt for prompt in found if _value(prompt, column) in values)
        if not kept:
            raise PromptSetError(f"{path}: no prompt has {column} {' or '.join(values)}")
        found = PromptSet(kept, found.name)
    return found.limit(options["limit"])


def _value(prompt: Any, column: str) -> str | None:
    known = ("id", "language", "group", "parallel_id")
    return getattr(prompt, column) if column in known else prompt.tags.get(column)


def _column(prompts: PromptSet) -> str | None:
    """The column that prompts differ in by nature."""
    return next(
        (c for c in ("language", "group") if len({_value(prompt, c) for prompt in prompts}) > 1), None
    )


def _check(prompts: PromptSet, by: str | None, target: str | None) -> None:
    """Before a model is loaded: whether the prompts have what effects are to be split by."""
    values = {_value(prompt, by) for prompt in prompts} - {None} if by else set()
    if by and not values:
        raise click.UsageError(f"--by {by}: the prompts have no such column")
    if target is not None and by is None:
        raise click.UsageError("--target needs --by: these prompts do not differ in language or group")
    if target is not None and target not in values:
        known = ", ".join(sorted(str(value) for value in values))
        raise click.UsageError(f"--target {target}: no prompt has it; {by} has {known}")


def _run(loaded: Any, prompts: PromptSet, steering: Any, options: dict[str, Any], tell: Any) -> Evaluation:
    from ...tracer.evaluate.run import dose_curve, evaluate

    names = ("controls", "seed", "chat", "max_new_tokens", "batch_tokens")
    settings = {name: options[name] for name in names} | {"progress": tell}
    if options["dose"] is None:
        return evaluate(loaded.model, loaded.tokenizer, prompts, steering, **settings)
    make, doses = _doses_of(steering, options)
    return dose_curve(loaded.model, loaded.tokenizer, prompts, make, doses, **settings)


def _run_in_vllm(
    model: str, prompts: PromptSet, steering: Any, options: dict[str, Any], engine: dict[str, Any], tell: Any
) -> Evaluation:
    from ...tracer.engines.vllm.evaluate import evaluate_in_vllm
    from ...tracer.evaluate.dose import dose_variants
    from ...tracer.evaluate.run import variants_of

    draws, seed = options["controls"], options["seed"]
    if options["dose"] is None:
        variants = partial(variants_of, steering, draws=draws, seed=seed)
    else:
        make, doses = _doses_of(steering, options)

        def variants(routers: Any) -> Any:
            return dose_variants(make, doses, routers, draws=draws, seed=seed), []

    names = ("dtype", "trust_remote_code", "chat", "max_new_tokens")
    settings = {name: options[name] for name in names} | {"progress": tell}
    return evaluate_in_vllm(model, prompts, variants, **engine, **settings)


def _doses_of(steering: Any, options: dict[str, Any]) -> tuple[Any, list[float]]:
    """What makes the steering of a dose, and the doses."""
    from ...tracer.evaluate.dose import cells_of, doses_of_amount, doses_of_experts

    kind, doses = options["dose"]
    if kind == "amount":
        if not any("amount" in rule.to_json() for rule in steering.rules):
            raise click.ClickException("no rule of the profile has an amount to sweep")
        return doses_of_amount(steering), doses
    ranked = _ranking(options["ranking"]) if options["ranking"] else cells_of(steering)
    if max(doses) > len(ranked):
        raise click.ClickException(f"--dose asks for {max(doses):g} experts, the ranking has {len(ranked)}")
    return doses_of_experts(steering.rules[0].to_json(), ranked), doses


def _ranking(path: str) -> list[tuple[int, int]]:
    """(layer, expert) pairs of a CSV file in the order of its rows."""
    try:
        rows = list(csv.DictReader(Path(path).read_text(encoding="utf-8-sig").splitlines()))
        return [(int(row["layer"]), int(row["expert"])) for row in rows]
    except (KeyError, TypeError, ValueError):
        raise click.ClickException(f"{path}: needs columns layer and expert, whole numbers") from None


def _table(evaluation: Evaluation, by: str | None, rules: Any, options: dict[str, Any]) -> pa.Table:
    from ...tracer.evaluate.dose import dose_table
    from ...tracer.evaluate.table import with_controls
    from .evaluate_table import for_people

    target, form, out = options["target"], options["form"], options["out"]
    if options["dose"] is not None:
        behaviour = f"behaviour: {next(iter(rules))}" if rules else "log_perplexity"
        return dose_table(evaluation, by, target=target, effect=behaviour, classes=rules)
    effects = evaluation.effects(by, target=target, classes=rules)
    if form not in (None, "table") or (form is None and out is not None):
        return effects
    behaviours = [name for name in effects["measure"].unique().to_pylist() if name.startswith("behaviour")]
    return for_people(with_controls(effects, [*READ, *behaviours]))

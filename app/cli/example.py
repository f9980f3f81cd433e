"""`moescope example`: the gallery of routers, listed, or one of them built, trained and traced."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

import click

from ...sample_data import gallery
from ..text.words import amount
from .model_options import SEEDS


@click.command("example")
@click.argument("name", required=False)
@click.option("--out", metavar="TRACE", help="Folder of the new trace.")
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Random seed.")
@click.option("--open", "opens", is_flag=True, help="Open the trace in the explorer when it is made.")
@click.option("--json", "as_json", is_flag=True, help="The list, or what was made, as JSON on stdout.")
@click.pass_context
def example_command(
    context: click.Context, name: str | None, out: str | None, seed: int, opens: bool, as_json: bool
) -> None:
    """List the examples of the gallery, or make one: a small model of some kind of router, built, trained and traced.

    Every example takes seconds on a CPU, downloads nothing, and says what is simplified.

    \b
    Example:
      moescope example
      moescope example kmeans_gate --out my-trace --open
    """
    if name is None:
        if out is not None or opens:
            raise click.UsageError("which example? `moescope example` lists them")
        _list(as_json)
        return
    if name not in gallery.ORDER:
        raise click.UsageError(f"there is no example {name!r}; there are: {', '.join(gallery.ORDER)}")
    if out is None:
        raise click.UsageError("--out is missing: the folder of the new trace")
    card, began = gallery.card(name), time.monotonic()
    if sys.stderr.isatty():
        click.echo(f"{card.title}: building, training, tracing", err=True)
    trace = gallery.run(name, out, seed=seed)
    seconds = time.monotonic() - began
    measured = trace.manifest.settings.get("measured", {})
    if as_json:
        made = {
            "trace": out,
            "seconds": round(seconds, 2),
            "prompts": trace.num_prompts,
            "events": trace.num_events,
        }
        click.echo(json.dumps(made | {"measured": measured, "card": asdict(card)}, ensure_ascii=False))
    else:
        _report(
            card,
            out,
            f"{amount(trace.num_prompts, 'prompt')}, {amount(trace.num_events, 'event')} in {seconds:.1f} s",
            measured,
        )
    if opens:
        from .app import app_command

        context.invoke(app_command, trace=out, host="127.0.0.1", port=8501)


def _list(as_json: bool) -> None:
    cards = gallery.cards()
    if as_json:
        click.echo(json.dumps([asdict(card) for card in cards], ensure_ascii=False))
        return
    width = max(len(card.name) for card in cards)
    for card in cards:
        click.echo(f"{card.name:<{width}}  {card.title}. {card.sentence}")
        click.echo(f"{'':<{width}}  {card.systems}\n")
    click.echo(f"moescope example {cards[0].name} --out my-trace")


def _report(card: gallery.Card, out: str, made: str, measured: dict[str, object]) -> None:
    click.echo(f"{card.title}: {made} → {out}")
    lines = {"systems": card.systems, "real": card.real, "toy": card.toy, "not shown": card.not_shown}
    for label, text in (lines | {"look at": card.look_at}).items():
        click.echo(f"{label:>9}  {text}")
    for label, value in measured.items():
        click.echo(f" measured  {label.replace('_', ' ')}: {json.dumps(value, ensure_ascii=False)}")
    click.echo(f"open it: moescope app {out}")

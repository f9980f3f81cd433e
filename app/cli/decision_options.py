"""What the commands that decide share: which prompts and layers count, and how an answer is told."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .model_options import SEEDS
from .output import as_text, json_ready
from .view_options import Conditions, conditions

if TYPE_CHECKING:
    import pyarrow as pa

    from ...store.read.token_filter import TokenFilter
    from ...store.views.options import Routers, Split

FIT_WHERE = click.option(
    "--fit-where", multiple=True, metavar="COLUMN=VALUE,...",
    help="Fit on these prompts and report on the others. Default: a random half of the texts.",
)  # fmt: skip
WHERE = click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE,...",
    help="Only these prompts; repeat it for further conditions.",
)
LAYERS = click.option("--layers", metavar="3:6", help="MoE layers, both ends in, or 3,5. Default: all.")
STREAM = click.option("--stream", default="decoder", show_default=True, help="Which router of each layer.")
SEED = click.option(
    "--seed", type=SEEDS, default=0, show_default=True, help="Seed of the random half and of random choices."
)

OF_MODEL = click.option(
    "--trace", required=True, metavar="TRACE", help="A trace of this model: which experts its prompts need."
)
KEEP = click.option(
    "--keep", default=0.75, show_default=True, type=click.FloatRange(0, 1, min_open=True),
    help="Share of experts that stay in each layer.",
)  # fmt: skip
SCORE = click.option(
    "--score", type=click.Choice(("frequency", "gate", "reap", "easy_ep")), default="reap", show_default=True,
    help="Which experts stay when pruned; reap and easy_ep need captured output norms or moescope weigh.",
)  # fmt: skip
LOSS_TOKENS = click.option(
    "--tokens", default=4096, show_default=True, type=click.IntRange(1), help="Held-out tokens to measure the loss on."
)  # fmt: skip
DRAWS = click.option(
    "--random", "draws", default=5, show_default=True, type=click.IntRange(1), help="Random choices for comparison."
)  # fmt: skip
CHECKPOINT = click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder of the new checkpoint."
)  # fmt: skip
COMPARISON = click.option("--json", "as_json", is_flag=True, help="The comparison as JSON on stdout.")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What every command that decides is given beside its own options."""

    where: Conditions
    fit_where: Conditions
    layers: str | None
    stream: str
    seed: int
    out: Path | None
    as_json: bool

    @property
    def common(self) -> dict[str, Any]:
        """Parameters of the views, without those of the split."""
        return {"where": self.where, "layers": self.layers, "stream": self.stream, "seed": self.seed}

    @property
    def tokens(self) -> TokenFilter:
        from ...store.read.token_filter import TokenFilter

        return TokenFilter(where=self.where)

    @property
    def routers(self) -> Routers:
        from ...store.views.options import Routers

        return Routers(layers=self.layers, stream=self.stream)

    @property
    def split(self) -> Split:
        from ...store.views.options import Split

        return Split(fit_where=self.fit_where, seed=self.seed)


def decision(
    what: str,
    *,
    metavar: str = "FILE",
    fits: bool = True,
    json_help: str = "The comparison as JSON on stdout.",
) -> Callable[..., Callable[..., Any]]:
    """Give a command the options of a `Decision`, as its parameter `asked`.

    Args:
        what: help of --out.
        fits: whether something is fitted on one part of the prompts.
    """
    out = click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar=metavar, help=what)
    as_json = click.option("--json", "as_json", is_flag=True, help=json_help)
    options = (*((FIT_WHERE,) if fits else ()), WHERE, LAYERS, STREAM, SEED, out, as_json)

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(
            *, where: tuple[str, ...], fit_where: tuple[str, ...] = (), layers: str | None, stream: str, seed: int,
            out: Path | None, as_json: bool, **own: Any,
        ) -> Any:  # fmt: skip
            asked = Decision(
                where=conditions(where), fit_where=conditions(fit_where), layers=layers, stream=stream, seed=seed,
                out=out, as_json=as_json,
            )  # fmt: skip
            return command(asked=asked, **own)

        for option in reversed(options):
            call = option(call)
        return call

    return add


def smaller_model(command: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments of commands that write a checkpoint with fewer experts."""
    from .model_options import model_options

    options = (
        click.argument("model"), OF_MODEL, KEEP, SCORE, LOSS_TOKENS, DRAWS, CHECKPOINT, FIT_WHERE, WHERE, SEED,
        model_options, COMPARISON,
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def tell_checkpoint(
    rows: list[dict[str, Any]], notes: list[str], facts: dict[str, Any], said: str, as_json: bool
) -> None:
    """The comparison of losses as a table with notes, or with `facts` as JSON."""
    import pyarrow as pa

    if as_json:
        click.echo(json.dumps({"loss": rows, **facts}))
        return
    click.echo(as_text(pa.Table.from_pylist(rows)), nl=False)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"→ {facts['out']}: {said} (largest difference {facts['logit_difference']:.1e})", err=True)


def say(facts: dict[str, Any], answer: str, shown: pa.Table, asked: Decision) -> None:
    """A sentence, a table and its notes for people; everything as JSON for a machine.

    Args:
        facts: for JSON; tables become lists of rows.
    """
    import pyarrow as pa

    from ...store.notes import notes_of
    from ...store.tables import json_rows

    tables = [value for value in facts.values() if isinstance(value, pa.Table)]
    notes = list(dict.fromkeys(note for table in tables for note in notes_of(table)))
    out = asked.out
    if asked.as_json:
        plain = {
            name: json_rows(value) if isinstance(value, pa.Table) else value for name, value in facts.items()
        }
        plain |= {"answer": answer, "notes": notes, "out": None if out is None else str(out)}
        click.echo(json.dumps(json_ready(plain), ensure_ascii=False))
        return
    click.echo(answer + "\n")
    click.echo(as_text(shown), nl=False)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if out is not None:
        click.echo(f"→ {out}", err=True)

"""What the commands that decide share: which prompts to fit on, and how an answer is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import as_text, json_ready

if TYPE_CHECKING:
    import pyarrow as pa

FIT_WHERE = click.option(
    "--fit-where", multiple=True, metavar="COLUMN=VALUE,...",
    help="Fit on these prompts and report on the others. Default: a random half of the texts.",
)  # fmt: skip
WHERE = click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE,...", help="Prompts to take; again for more conditions."
)
LAYERS = click.option("--layers", metavar="3:6", help="MoE layers, both ends in, or 3,5. Default: all.")
STREAM = click.option("--stream", default="decoder", show_default=True, help="Which routers.")
SEED = click.option("--seed", default=0, show_default=True, help="Of the halves and of random choices.")


def say(facts: dict[str, Any], answer: str, shown: pa.Table, as_json: bool, out: Path | None) -> None:
    """A sentence, a table and its notes for people; everything as JSON for a machine.

    Args:
        facts: for JSON; tables become lists of rows.
    """
    import pyarrow as pa

    from ...store.notes import notes_of
    from ...store.tables import json_rows

    tables = [value for value in facts.values() if isinstance(value, pa.Table)]
    notes = list(dict.fromkeys(note for table in tables for note in notes_of(table)))
    if as_json:
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

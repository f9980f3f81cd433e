"""`moescope compare --attribute`: how much of the difference between two models the choice of experts carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .model_options import load
from .output import Lines, as_text

if TYPE_CHECKING:
    from ...store.compare import Pairs


def print_attribution(pairs: Pairs, options: dict[str, Any]) -> None:
    """Run A, B, and A with B's routing, and say what came out; on stderr where stdout holds a table for a machine."""
    from ...store.notes import notes_of
    from ...tracer import Steering
    from ...tracer.evaluate.attribute import attribute_routing, prompts_of
    from ..sentences.agreement import attribution

    loaded, other = _models(pairs, options)
    profiles = [side.manifest.steering for side in (pairs.a, pairs.b)]
    steering_a, steering_b = (Steering.from_json(profile) if profile else None for profile in profiles)
    found = attribute_routing(
        loaded.model,
        other.model,
        loaded.tokenizer,
        pairs.b,
        prompts_of(pairs.b).limit(options["limit"]),
        steering_a=steering_a,
        steering_b=steering_b,
        chat=bool(pairs.b.manifest.settings.get("chat")),
        progress=Lines("batches"),
    ).table(resamples=options["resamples"])
    for_machines = bool(options["form"]) and options["out"] is None
    click.echo(f"\n{attribution(found)}\n\n{as_text(found)}", nl=False, err=for_machines)
    for note in notes_of(found):
        click.echo(f"note: {note}", err=True)


def _models(pairs: Pairs, options: dict[str, Any]) -> tuple[Any, Any]:
    """A's model and B's; by default each in the precision in which it was traced."""
    from ...tracer.prepared import OPTIONS

    asked = {name: options[name] for name in OPTIONS}
    dtypes = [side.manifest.model.get("dtype") or "auto" for side in (pairs.a, pairs.b)]
    if asked["dtype"] != "auto":
        dtypes = [asked["dtype"]] * 2
    loaded = load(options["attribute"], asked | {"dtype": dtypes[0]})
    if not options["attribute_b"] and dtypes[0] == dtypes[1]:
        return loaded, loaded
    return loaded, load(options["attribute_b"] or options["attribute"], asked | {"dtype": dtypes[1]})

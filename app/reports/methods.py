"""The methods paragraph of a figure: what was run, on what, with which measure, and whom to cite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..text import words
from .item import NO_NAME
from .measures import CITATIONS, MEASURES


def paragraph(about: dict[str, Any], view: str = "") -> str:
    """The text to paste into a paper.

    Args:
        about: from `item.origin`.
        view: name of the view, by whose beginning the measure is found; empty for none.
    """
    cited = citations([view])
    source = f"To cite: {'; '.join(cited)}." if cited else ""
    chosen = f"Shown: {shown(about)}." if shown(about) else ""
    return " ".join(filter(None, [recording(about), chosen, measured(view), software(about), source]))


def measured(view: str) -> str:
    """The measure that a view shows, in a sentence; empty where none is known."""
    family = family_of(view)
    return MEASURES[family][0] if family else ""


def shown(about: dict[str, Any]) -> str:
    """Which prompts and tokens of a recording a figure shows; empty for an evaluation, which says its own."""
    return "" if about.get("evaluation") else str(about.get("chosen") or "")


def software(about: dict[str, Any]) -> str:
    """The versions that recorded it."""
    versions = about.get("versions", {})
    took_part = ("moescope",) if about.get("imported") else ("moescope", "transformers", "torch")
    named = [f"{name} {versions[name]}" for name in took_part if name in versions]
    return f"Software: {', '.join(named)}." if named else ""


def recording(about: dict[str, Any]) -> str:
    """Model, prompts, and what was recorded or evaluated; of both sides where there are two."""
    if second := about.get("second"):
        sides = (("A", {**about, "second": None}), ("B", second))
        return " ".join(f"{side} is {one['trace']}: {recording(one)}" for side, one in sides)
    if about.get("evaluation"):
        return _evaluated(about)
    marks = [about["architecture"]] if about.get("architecture") else []
    marks += [f"weights {about['weights']}"] if about.get("weights") else []
    prints = f" ({', '.join(marks)})" if marks else ""
    source = f" of the prompt set {about['prompt set']}" if about.get("prompt set") else ""
    mark = f" (fingerprint {about['prompts fingerprint']})" if about.get("prompts fingerprint") else ""
    unfinished = "" if about.get("state") in (None, "complete") else " The recording is unfinished."
    if about.get("steering"):
        unfinished += f" Routing was changed by the steering profile “{about['steering']}”."
    amounts = f"{words.amount(about.get('prompts', 0), 'prompt')} and {words.amount(about.get('tokens', 0), 'token')}"
    model = str(about.get("model", "a model"))
    of = f"{'an unnamed model' if model == NO_NAME else model}{prints}, {about.get('routers', '')}"
    if about.get("imported"):
        return (
            f"Routing of {of}, recorded with another tool, was imported from {about.get('prompt set')} (format "
            f"{about['imported']}): {amounts}; the choices of experts are those of that file."
        )
    return (
        f"Routing of {of}, was recorded over {amounts}{source}{mark}; recorded is what the experts "
        f"received.{unfinished}"
    )


def _evaluated(about: dict[str, Any]) -> str:
    """What an evaluation ran."""
    controls = (
        f", and under {words.amount(about['draws'], 'random control')} of as many experts in the same layers"
        f"{'' if about.get('seed') is None else ' (seed ' + str(about['seed']) + ')'}"
    )
    return (
        f"The steering profile “{about.get('steering') or 'unnamed'}” was evaluated with {about['model']} on "
        f"{words.amount(about['prompts'], 'prompt')} of the prompt set {about['prompt set']}: each was run unsteered "
        f"and steered{controls if about.get('draws') else ''}. Effects are paired by prompt; 95 % intervals are "
        "bootstraps over texts, translations of one text together. A finding lies beyond 0 and beyond every "
        "control's interval."
    )


def family_of(view: str) -> str | None:
    """The longest key of MEASURES that the view's name begins with."""
    fitting = [key for key in MEASURES if view.startswith(key)]
    return max(fitting, key=len) if fitting else None


def citations(views: Iterable[str]) -> list[str]:
    """What to cite for these views, each once."""
    keys = [key for view in views if (family := family_of(view)) for key in MEASURES[family][1]]
    return [CITATIONS[key] for key in dict.fromkeys(keys)]

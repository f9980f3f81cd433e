"""The methods paragraph of a figure: what was run, on what, with which measure, and whom to cite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..text import words

CITATIONS = {
    "alignment": "Bandarkar et al. 2025, Multilingual Routing in Mixture-of-Experts, arXiv:2510.04694",
    "resonance": "Dahlke et al. 2025, Mixture of Tunable Experts, arXiv:2502.11096",
    "consistency": "Liang et al. 2025, Not All Models Suit Expert Offloading: On Local Routing Consistency, "
    "arXiv:2505.16056",
    "benjamini": "Benjamini and Hochberg 1995, Controlling the False Discovery Rate",
}

MEASURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "load": ("The load of an expert is the share of tokens that choose it; even routing gives k/E.", ()),
    "load-balance": (
        "The imbalance of a layer is the load of its busiest expert over the mean load; the Gini coefficient, the "
        "coefficient of variation and the entropy are taken over the experts' counts.",
        (),
    ),
    "alignment": (
        "Routing divergence is the Jensen–Shannon divergence of two sequences' mean router probabilities, divided by "
        "the logarithm of the number of experts minus the mean of their entropies; it is computed for each parallel "
        "pair and then averaged, with 95 % bootstrap intervals over texts.",
        ("alignment",),
    ),
    "routing-entropy": (
        "Routing entropy is the entropy of a sequence's mean router probabilities.",
        ("alignment",),
    ),
    "routing-consistency": (
        "Consistency is the mean overlap of the experts of two tokens of one sequence (our choice of measure).",
        ("alignment",),
    ),
    "resonance": (
        "The score of an expert is the mean of the first group's routing maps minus that of the rest. P-values come "
        "from permutations of whole prompts, within translation pairs where these exist, and are corrected over all "
        "experts by Benjamini and Hochberg.",
        ("resonance", "benjamini"),
    ),
    "specialised-experts": (
        "An expert counts as specialised where its mean selection frequency exceeds that of the pivot by more than τ.",
        ("alignment",),
    ),
    "expert-half-life": (
        "The half-life of an expert is the number of tokens after which half of its uses have ended; chance is that "
        "of independent tokens with the layer's own load (our choice of measure).",
        (),
    ),
    "consistency": (
        "Segment routing best performance (SRP) and segment cache best hit rate (SCH) are taken over sliding windows "
        "of one sequence.",
        ("consistency",),
    ),
}
"""Family of views → the measure in one sentence, and keys of CITATIONS."""


def paragraph(about: dict[str, Any], view: str = "") -> str:
    """The text to paste into a paper.

    Args:
        about: from `item.origin`.
        view: name of the view, by whose beginning the measure is found; empty for none.
    """
    cited = citations([view])
    source = f"To cite: {'; '.join(cited)}." if cited else ""
    return " ".join(filter(None, [recording(about), measured(about, view), software(about), source]))


def measured(about: dict[str, Any], view: str) -> str:
    """What is shown of the recording, and by which measure."""
    family = family_of(view)
    chosen = f"Shown: {about['chosen']}." if about.get("chosen") else ""
    return " ".join(filter(None, [chosen, MEASURES[family][0] if family else ""]))


def software(about: dict[str, Any]) -> str:
    """The versions that recorded it."""
    versions = about.get("versions", {})
    named = [f"{name} {versions[name]}" for name in ("moescope", "transformers", "torch") if name in versions]
    return f"Software: {', '.join(named)}." if named else ""


def recording(about: dict[str, Any]) -> str:
    """Model, prompts, and what was recorded or evaluated."""
    if about.get("evaluation"):
        return _evaluated(about)
    marks = [f"weights {about['weights']}"] if about.get("weights") else []
    prints = f" ({', '.join(marks)})" if marks else ""
    source = f" of the prompt set {about['prompt set']}" if about.get("prompt set") else ""
    mark = f" (fingerprint {about['prompts fingerprint']})" if about.get("prompts fingerprint") else ""
    unfinished = "" if about.get("state") in (None, "complete") else " The recording is unfinished."
    if about.get("steering"):
        unfinished += f" Routing was changed by the steering profile “{about['steering']}”."
    return (
        f"Routing of {about.get('model', 'a model')}{prints}, {about.get('routers', '')}, was recorded over "
        f"{words.amount(about.get('prompts', 0), 'prompt')} and {words.amount(about.get('tokens', 0), 'token')}"
        f"{source}{mark}; recorded is what the experts received.{unfinished}"
    )


def _evaluated(about: dict[str, Any]) -> str:
    """What an evaluation ran."""
    controls = (
        f", and under {words.amount(about['draws'], 'random control')} of as many experts in the same layers"
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

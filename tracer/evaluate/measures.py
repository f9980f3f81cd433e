"""The effects that two outcomes carry, prompt by prompt: likelihood, accuracy, divergence, routing, behaviour.

Response classes are only ever found where their patterns were written (the app, a notebook, the command), never
on a served model: a pattern can take for ever. Shapes: P prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...store.response_classes import OTHER, Rules, classify
from .outcome import Outcome


@dataclass(frozen=True)
class Measure:
    """One effect: its value on each prompt, and how much each prompt weighs in the mean."""

    name: str
    base_P: np.ndarray
    steered_P: np.ndarray
    weights_P: np.ndarray


def measures(base: Outcome, steered: Outcome, classes: Rules | None = None) -> list[Measure]:
    """All effects that these outcomes carry."""
    bits_P = base.bytes_P * math.log(2)
    routed_P = base.routed_P * max(1, base.changed_PL.shape[1])
    found = [
        ratio("log_perplexity", base.nll_P, steered.nll_P, base.tokens_P),
        ratio("bits_per_byte", base.nll_P, steered.nll_P, bits_P),
        Measure("accuracy", base.correct_P, steered.correct_P, np.isfinite(base.correct_P).astype(float)),
        ratio("kl", np.zeros_like(steered.kl_P), steered.kl_P, base.positions_P),
        ratio("changed", np.zeros_like(steered.kl_P), steered.changed_PL.sum(1), routed_P),
    ]
    if classes is not None and base.texts is not None and steered.texts is not None:
        kinds = [
            np.array([_class_of(text, classes) for text in side.texts or ()]) for side in (base, steered)
        ]
        for name in classes:
            before_P, after_P = ((kind == name).astype(float) for kind in kinds)
            found.append(Measure(f"behaviour: {name}", before_P, after_P, np.ones(len(before_P))))
    return [measure for measure in found if measure.weights_P.any()]


def ratio(name: str, base_P: np.ndarray, steered_P: np.ndarray, size_P: np.ndarray) -> Measure:
    """Sums over prompts divided by the sum of their sizes, as a weighted mean of quotients."""
    some = np.where(size_P > 0, size_P, 1)
    return Measure(name, base_P / some, steered_P / some, size_P)


def _class_of(text: str, classes: Rules) -> str:
    found = classify(text, classes)
    return OTHER if found is None else found.name

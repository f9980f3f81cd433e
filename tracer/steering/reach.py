"""From which token on a steering can make a difference: before it, both models of a comparison are one.

Two passes still round differently there: a matrix product depends on how many rows share an expert, so steering one
row moves its neighbours by a last bit. A comparison takes the unsteered result for both wherever nothing acts yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...store.schema import RouterSpec
from .check import effective
from .rules import Rule
from .span import PositionSpan


def first_acting(rules: Sequence[Rule], specs: Sequence[RouterSpec], prompt_length: int) -> float:
    """The first position of a sequence on which a rule changes anything; infinity where none ever does.

    Args:
        prompt_length: tokens of the sequence that count as its prompt.
    """
    acting = {id(rule): rule for spec in specs for rule in effective(rules, spec)}
    return min((_first(rule.span, prompt_length) for rule in acting.values()), default=math.inf)


def _first(span: PositionSpan, prompt_length: int) -> float:
    start = max(span.start, prompt_length) if span.phase == "generation" else span.start
    stop = math.inf if span.stop is None else span.stop
    if span.phase == "prompt":
        stop = min(stop, prompt_length)
    return start if start < stop else math.inf

"""The values that views take, checked in one place before any of them runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from ..errors import BadArgument
from ..write.rollups import KNOWN_PHASES

MOST_DRAWS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both inside."""

    low: float
    high: float = math.inf
    kind: type = Integral
    note: str = ""

    def problem(self, value: Any) -> str | None:
        """What the value should have been; None where it is right."""
        right = (
            isinstance(value, self.kind) and not isinstance(value, bool) and self.low <= value <= self.high
        )
        if right:
            return None
        what = "a whole number" if self.kind is Integral else "a number"
        upto = f"from {self.low:,} to {self.high:,}" if self.high < math.inf else f"from {self.low:,} on"
        return f"{what} {upto}{self.note}"


AT_LEAST_ONE, FROM_ZERO = Range(low=1), Range(low=0)
ZERO_FOR_ALL = Range(low=0, note=" (0 for all)")
DRAWS = Range(low=1, high=MOST_DRAWS)
RANGES: Mapping[str, Range] = {
    "tau": Range(low=0, high=1, kind=Real),
    "resamples": DRAWS,
    "permutations": DRAWS,
    "stability": Range(low=0, high=MOST_DRAWS),
    "top": AT_LEAST_ONE,
    "bins": AT_LEAST_ONE,
    "ahead": AT_LEAST_ONE,
    "batches": AT_LEAST_ONE,
    "depth": AT_LEAST_ONE,
    "per_layer": AT_LEAST_ONE,
    "among": AT_LEAST_ONE,
    "last": AT_LEAST_ONE,
    "horizon": AT_LEAST_ONE,
    "devices": AT_LEAST_ONE,
    "nodes": AT_LEAST_ONE,
    "groups": AT_LEAST_ONE,
    "replicas": FROM_ZERO,
    "batch": AT_LEAST_ONE,
    "batch_tokens": AT_LEAST_ONE,
    "draws": DRAWS,
    "seconds": Range(low=0.01, high=3600, kind=Real),
    "expert_bytes": Range(low=1, kind=Real),
    "training_tokens": Range(low=1, kind=Real),
    "keep": Range(low=0.001, high=1, kind=Real),
    "most": AT_LEAST_ONE,
    "limit": ZERO_FOR_ALL,
    "per_prompt": ZERO_FOR_ALL,
    "least": FROM_ZERO,
    "context": FROM_ZERO,
    "expert": FROM_ZERO,
    "token_id": FROM_ZERO,
    "seed": Range(low=0, high=2**63 - 1),
}
"""By the name of a parameter, in every view that has it."""
OWN: Mapping[tuple[str, str], Range] = {("expert-contexts", "limit"): AT_LEAST_ONE}
"""Of one view alone."""
WORDS: Mapping[str, tuple[str, ...]] = {
    "phase": KNOWN_PHASES,
    "measure": ("rate", "count", "weight", "weight_rate"),
    "of": ("input", "next"),
    "per": ("slot", "token"),
    "ranking": ("absolute", "target", "rest"),
}


def check(view: str, params: Mapping[str, Any], optional: set[str]) -> None:
    """Refuse values that a view can do nothing with.

    Args:
        optional: parameters that may be None.
    Raises:
        BadArgument: the first of them, with what it takes.
    """
    for name, value in params.items():
        if value is None and name in optional:
            continue
        wanted = None
        if (known := OWN.get((view, name)) or RANGES.get(name)) is not None:
            wanted = known.problem(value)
        elif name in WORDS and value not in WORDS[name]:
            wanted = f"one of {', '.join(WORDS[name])}"
        if wanted is not None:
            raise BadArgument(f"{name} is {value!r}; it takes {wanted}")

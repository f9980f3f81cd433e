"""When an effect may be called a finding, and why not where it may not.

A finding is an effect of the profile whose 95 % interval, on the side of its change,
1. lies beyond 0,
2. lies beyond the interval of **every** control (each random draw, the other layers, the opposite sign), so that
   the two intervals do not even touch, and
3. stands beside at least 5 random draws.

That is stricter than a test of the paired difference. It is no test against the draws as a population: if the
chosen experts were themselves a random draw, they would come out first among D draws with chance 1 / (D + 1), and
with many prompts the intervals do little to prevent it. `p_draws` says that chance; it takes 19 draws for 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

PROFILE = "profile"
CONTROLS = ("random", "layers", "opposite")
MIN_DRAWS = 5
"""Random draws below which nothing is called a finding."""

_SAID = {"layers": "the other layers", "opposite": "the opposite sign"}
"""What the controls of chosen experts are called in a sentence."""

Row = Mapping[str, Any]


def judge(rows: Sequence[dict[str, Any]]) -> None:
    """Sets `finding`, `why` and `p_draws` on the profile's rows, from the controls of the same measure and group."""
    rivals: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["kind"] in CONTROLS:
            rivals.setdefault((row["measure"], row["group"]), []).append(row)
    for row in rows:
        if row["kind"] == PROFILE:
            others = rivals.get((row["measure"], row["group"]), [])
            row["why"] = why_not(row, others)
            row["finding"] = row["why"] == ""
            row["p_draws"] = p_of_draws(row, others)


def is_finding(row: Row, controls: Sequence[Row]) -> bool:
    """Whether an effect's interval lies beyond 0 and beyond every control's, on the side of its change."""
    return why_not(row, controls) == ""


def why_not(row: Row, controls: Sequence[Row]) -> str:
    """What stands against calling an effect a finding, in a few words; empty where nothing does."""
    if not all(math.isfinite(end) for one in (row, *controls) for end in (one["low"], one["high"])):
        return "too few prompts for an interval"
    side = 1 if row["change"] > 0 else -1
    if _nearest(row, side) <= 0:
        return "the interval holds 0"
    draws = sum(control["kind"] == "random" for control in controls)
    if draws < MIN_DRAWS:
        return f"{draws} random draws; {MIN_DRAWS} are needed"
    near = [control for control in controls if _nearest(row, side) <= _farthest(control, side)]
    drawn = sum(control["kind"] == "random" for control in near)
    names = [f"{drawn} of {draws} random draws"] if drawn else []
    names += [_SAID[control["kind"]] for control in near if control["kind"] != "random"]
    return f"its interval does not lie beyond that of {' and '.join(names)}" if names else ""


def p_of_draws(row: Row, controls: Sequence[Row]) -> float | None:
    """The chance of coming out so far on this side of as many random draws; None where there are none."""
    side = 1 if row["change"] > 0 else -1
    drawn = [control["change"] for control in controls if control["kind"] == "random"]
    as_far = sum(side * change >= side * row["change"] for change in drawn)
    return (1 + as_far) / (1 + len(drawn)) if drawn else None


def _nearest(row: Row, side: int) -> float:
    """The end of an interval that lies nearer to 0, seen from this side."""
    return row["low"] if side > 0 else -row["high"]


def _farthest(row: Row, side: int) -> float:
    return row["high"] if side > 0 else -row["low"]

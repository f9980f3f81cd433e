"""An axis that is no list of names: the values of a tag in their own order, or the positions of tokens.

Step, noise level, age, day, frame: numbers stand where they belong, dates too, and other values in the order in which
they come in the trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np

from ...errors import BadArgument, StoreError
from ...read.trace_rows import TraceRows

POSITION = "position"
MOST_NAMES = 200
"""Values that are neither numbers nor dates: more can't be told apart on an axis."""

Kind = Literal["position", "number", "date", "order"]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """X places on an axis, in order."""

    kind: Kind
    names: list[str]
    """Of each place: the value, or `from–to` where several were put together."""
    at: np.ndarray
    """(X,) float64: the number; of a date the days since 1970-01-01; of names 0, 1, 2, ..."""
    group_P: np.ndarray | None = None
    """(P,) place of each prompt, -1 where it has none; None for positions."""
    width: int = 1
    """Positions in one place."""


def axis_of(trace: TraceRows, by: str, bins: int) -> Axis:
    """The axis of a tag, or of the positions of tokens.

    Args:
        by: `position`, a column of the prompts or a tag.
        bins: places at most; numbers and positions beyond that are put together in equal widths.
    Raises:
        BadArgument: too many values that are neither numbers nor dates.
        StoreError: no prompt has a value.
    """
    if by == POSITION:
        return _positions(trace, bins)
    groups = trace.groups(by)
    names = [name for name in groups.names if name is not None]
    if not names:
        raise StoreError(f"no prompt has a value of {by!r}")
    group_P = np.where(groups.group_P < len(names), groups.group_P, -1)
    if (numbers := _numbers(names)) is not None:
        return _sorted("number", names, numbers, group_P, bins)
    if (days := _days(names)) is not None:
        return _sorted("date", names, days, group_P, bins)
    if len(names) > MOST_NAMES:
        raise BadArgument(
            f"by={by} has {len(names):,} values that are neither numbers nor dates; at most {MOST_NAMES} can be shown"
        )
    seen, first = np.unique(group_P, return_index=True)
    first_N = np.zeros(len(names))
    first_N[seen[seen >= 0]] = first[seen >= 0]
    found = _sorted("order", names, first_N, group_P, len(names))
    return Axis(kind="order", names=found.names, at=np.arange(len(names), dtype=float), group_P=found.group_P)


def _numbers(names: Sequence[str]) -> np.ndarray | None:
    try:
        values = np.array([float(name) for name in names])
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _days(names: Sequence[str]) -> np.ndarray | None:
    try:
        return np.array(
            [float(date.fromisoformat(name).toordinal() - date(1970, 1, 1).toordinal()) for name in names]
        )
    except ValueError:
        return None


def _sorted(kind: Kind, names: list[str], at_N: np.ndarray, group_P: np.ndarray, bins: int) -> Axis:
    """Values in the order of their numbers; those of one number together, and in `bins` widths where they are more."""
    at_X, place_N = np.unique(at_N, return_inverse=True)
    shown = [names[int(np.flatnonzero(place_N == x)[0])] for x in range(len(at_X))]
    if len(at_X) > bins:
        edges = np.linspace(at_X[0], at_X[-1], bins + 1)
        bin_X = np.minimum(np.searchsorted(edges, at_X, side="right") - 1, bins - 1)
        used, bin_X = np.unique(bin_X, return_inverse=True)
        ends = [(np.flatnonzero(bin_X == u)[0], np.flatnonzero(bin_X == u)[-1]) for u in range(len(used))]
        shown = [shown[a] if a == b else f"{shown[a]}–{shown[b]}" for a, b in ends]
        at_X, place_N = np.array([(at_X[a] + at_X[b]) / 2 for a, b in ends]), bin_X[place_N]
    return Axis(
        kind=kind, names=shown, at=at_X, group_P=np.where(group_P >= 0, np.r_[place_N, -1][group_P], -1)
    )


def _positions(trace: TraceRows, bins: int) -> Axis:
    last = max(
        (int(np.max(part["position"])) for part in trace.iter_token_parts(["position"]) if len(part)),
        default=0,
    )
    width = -(-(last + 1) // bins)
    starts = np.arange(0, last + 1, width)
    ends = np.minimum(starts + width - 1, last)
    names = [str(a) if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True)]
    return Axis(kind="position", names=names, at=(starts + ends) / 2, width=width)

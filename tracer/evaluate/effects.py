"""From what each variant did to each prompt, to effects with intervals, beside those of the controls.

Every effect is paired: the same prompt, steered minus unsteered. Intervals are percentile bootstraps over units
of prompts (`units`). What may be called a finding is said in `finding`.
Shapes: P prompts, L routers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ...kernels.statistics.bootstrap import Interval
from ...store.response_classes import Rules
from .finding import PROFILE, is_finding, judge
from .measures import Measure, measures, ratio
from .outcome import Outcome
from .units import contrast_interval, mean_interval, mean_intervals

__all__ = ["ALL", "PROFILE", "Evaluation", "Outcome", "is_finding"]

ALL = "all"
LOG, PERPLEXITY = "log_perplexity", "perplexity"


@dataclass
class Evaluation:
    """Every variant's outcome, and what follows from them."""

    prompt_ids: list[str]
    groups: dict[str, list[str | None]]
    """Column (language, group, a tag) → its value for each prompt."""
    routers: list[tuple[int, str]]
    """(layer, stream) of each router."""
    base: Outcome
    variants: dict[str, Outcome]
    """"profile" first, then the controls by name."""
    kinds: dict[str, str]
    """Variant → profile, random, layers, opposite or dose."""
    profiles: dict[str, dict[str, Any]]
    """Variant → its steering as JSON: a control can be run and shared like any profile."""
    notes: list[str] = field(default_factory=list)
    """Which controls are missing or fall short, and why."""
    resamples: int = 2000
    units: list[int] = field(default_factory=list)
    """The unit of each prompt, resampled as a whole: translations of one text share it. Each its own if empty."""

    def __post_init__(self) -> None:
        if not self.units:
            self.units = list(range(len(self.prompt_ids)))

    def effects(
        self, by: str | None = None, *, target: str | None = None, classes: Rules | None = None
    ) -> pa.Table:
        """One row a variant, measure and group.

        Args:
            by: "language", "group" or a tag to split by; rows for all prompts are always there.
            target: a value of `by`; adds rows for its effect minus the mean effect on the other values.
            classes: response classes (name → regular expressions) to find in the generated texts.
        Returns:
            variant, kind, measure, group, base, steered, change, low, high (95 %), prompts, units, and for the
            profile finding, why (not), p_draws; these are null for controls. `change` is steered − base; of
            "perplexity" it is steered / base − 1, and target's factor / the others' − 1 in their contrast.
        """
        masks = self._masks(by)
        wanted: list[tuple[str, Measure, str, np.ndarray]] = []
        rows: list[dict[str, Any]] = []
        for variant, outcome in self.variants.items():
            for measure in measures(self.base, outcome, classes):
                wanted += [(variant, measure, group, chosen_P) for group, chosen_P in masks.items()]
                if target is not None and by is not None:
                    rows += self._contrast(variant, measure, by, target)
        rows = self._rows(wanted) + rows
        rows.sort(key=lambda row: list(self.variants).index(row["variant"]))
        judge(rows)
        return pa.Table.from_pylist(_with_perplexity(rows), EFFECTS)

    def by_layer(self, by: str | None = None) -> pa.Table:
        """variant, kind, layer, stream, group, changed (share of tokens), low, high, prompts, units."""
        masks, rows = self._masks(by), []
        for column, (layer, stream) in enumerate(self.routers):
            wanted = []
            for variant, outcome in self.variants.items():
                none_P, changed_P = np.zeros(len(outcome.kl_P)), outcome.changed_PL[:, column]
                share = ratio("changed", none_P, changed_P, self.base.routed_P)
                wanted += [(variant, share, group, chosen_P) for group, chosen_P in masks.items()]
            for row in self._rows(wanted):
                rows.append({**row, "layer": layer, "stream": stream, "changed": row["change"]})
        rows.sort(key=lambda row: list(self.variants).index(row["variant"]))
        return pa.Table.from_pylist(rows, BY_LAYER)

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes the same evaluation."""
        data = {**vars(self), "base": self.base.to_json(), "routers": [list(key) for key in self.routers]}
        return data | {"variants": {name: outcome.to_json() for name, outcome in self.variants.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        known = dict(data)
        known["base"] = Outcome.from_json(known["base"])
        known["variants"] = {name: Outcome.from_json(value) for name, value in known["variants"].items()}
        known["routers"] = [(layer, stream) for layer, stream in known["routers"]]
        return cls(**known)

    def values(self, by: str) -> list[str]:
        """The values of a column, sorted. Raises ValueError where the prompts have no such column."""
        if by not in self.groups:
            raise ValueError(f"the prompts have no {by!r}; they have {', '.join(self.groups) or 'nothing'}")
        return sorted({value for value in self.groups[by] if value})

    def mask(self, by: str | None, value: str) -> np.ndarray:
        """Which prompts have this value, (P,). Raises ValueError where none has."""
        if by is None or value not in self.values(by):
            known = (
                f"there are {', '.join(self.values(by))}" if by else "name the column that it is a value of"
            )
            raise ValueError(f"no prompt has {by or 'the value'} {value!r}; {known}")
        return self._masks(by)[value]

    def interval(
        self, variant: str, measure: str, chosen_P: np.ndarray, classes: Rules | None = None
    ) -> Interval:
        """The effect of a variant on some prompts. Raises ValueError for a measure that it lacks."""
        found = {one.name: one for one in measures(self.base, self.variants[variant], classes)}
        if measure not in found:
            raise ValueError(f"there is no measure {measure!r}; there are {', '.join(found)}")
        one = found[measure]
        weights_P = one.weights_P * chosen_P
        return mean_interval(one.steered_P - one.base_P, weights_P, np.array(self.units), self.resamples)

    def _masks(self, by: str | None) -> dict[str, np.ndarray]:
        """Group name → which prompts are in it."""
        masks = {ALL: np.ones(len(self.prompt_ids), bool)}
        if by is not None:
            column = np.array([value or "" for value in self.groups.get(by, [])])
            masks |= {value: column == value for value in self.values(by)}
        return masks

    def _rows(self, wanted: list[tuple[str, Measure, str, np.ndarray]]) -> list[dict[str, Any]]:
        """Rows of (variant, measure, group, prompts in it), without those that nothing weighs in."""
        some = [(*one, one[1].weights_P * one[3]) for one in wanted]
        some = [one for one in some if one[-1].any()]
        columns = [(measure.steered_P - measure.base_P, weights_P) for _, measure, _, _, weights_P in some]
        intervals = mean_intervals(columns, np.array(self.units), self.resamples)
        rows = []
        for (variant, measure, group, _, weights_P), interval in zip(some, intervals, strict=True):
            means = [_mean(values_P, weights_P) for values_P in (measure.base_P, measure.steered_P)]
            prompts = int(np.count_nonzero(weights_P))
            rows.append(self._as_row(variant, measure.name, group, interval, prompts, *means))
        return rows

    def _contrast(self, variant: str, measure: Measure, by: str, target: str) -> list[dict[str, Any]]:
        """The target's effect minus the mean effect on the other groups."""
        wanted = self.mask(by, target)
        masks = self._masks(by)
        del masks[ALL], masks[target]
        others = [mask for mask in masks.values() if (measure.weights_P * mask).any()]
        if not others or not (measure.weights_P * wanted).any():
            return []
        weights_GP = np.stack([measure.weights_P * mask for mask in (wanted, *others)])
        change_P = measure.steered_P - measure.base_P
        interval = contrast_interval(change_P, weights_GP, np.array(self.units), self.resamples)
        prompts = int(np.count_nonzero(weights_GP.any(0)))
        return [self._as_row(variant, measure.name, f"{target} − others", interval, prompts, None, None)]

    def _as_row(
        self,
        variant: str,
        measure: str,
        group: str,
        interval: Interval,
        prompts: int,
        base: float | None,
        steered: float | None,
    ) -> dict[str, Any]:
        numbers = {"change": interval.point, "low": interval.low, "high": interval.high}
        known = {"variant": variant, "kind": self.kinds[variant], "measure": measure, "group": group}
        return {
            **known, **{name: float(value) for name, value in numbers.items()},
            "base": base, "steered": steered, "prompts": prompts, "units": int(interval.units),
            "finding": None, "why": None, "p_draws": None,
        }  # fmt: skip


def _with_perplexity(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and after each of log perplexity the same as perplexity: its change is a ratio minus 1."""
    found = []
    for row in rows:
        found.append(row)
        if row["measure"] == LOG:
            sides = {name: None if row[name] is None else _exp(row[name]) for name in ("base", "steered")}
            ratios = {name: _exp(row[name]) - 1 for name in ("change", "low", "high")}
            found.append({**row, "measure": PERPLEXITY, **sides, **ratios})
    return found


def _exp(value: float) -> float:
    """Infinite where a float cannot hold it."""
    return math.inf if value >= 700 else math.exp(value)  # NaN, an interval that is not given, stays NaN


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean; NaN where nothing weighs."""
    used = weights > 0
    return float(np.average(values[used], weights=weights[used])) if used.any() else math.nan


_KEY = [("variant", pa.string()), ("kind", pa.string())]
_RANGE = [("low", pa.float64()), ("high", pa.float64()), ("prompts", pa.int64()), ("units", pa.int64())]
EFFECTS = pa.schema(
    [
        *_KEY,
        ("measure", pa.string()),
        ("group", pa.string()),
        ("base", pa.float64()),
        ("steered", pa.float64()),
        ("change", pa.float64()),
        *_RANGE,
        ("finding", pa.bool_()),
        ("why", pa.string()),
        ("p_draws", pa.float64()),
    ]
)
BY_LAYER = pa.schema(
    [
        *_KEY,
        ("layer", pa.int64()),
        ("stream", pa.string()),
        ("group", pa.string()),
        ("changed", pa.float64()),
        *_RANGE,
    ]
)

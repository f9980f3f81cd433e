"""From what each variant did to each prompt, to effects with intervals, beside those of the controls.

Every effect is paired: the same prompt, steered minus unsteered. Intervals are percentile bootstraps over
prompts. Shapes: P prompts, L routers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ..kernels.bootstrap import Interval, bootstrap_interval, resample
from ..kernels.percentiles import percentile_bounds
from .evaluate_controls import MIN_DRAWS

PROFILE = "profile"
ALL = "all"


@dataclass
class Outcome:
    """What one variant (or no steering at all) did to each prompt."""

    nll_P: np.ndarray
    """Negative log-likelihood of the scored tokens, nats; of the right choice where there are choices."""
    tokens_P: np.ndarray
    """Scored tokens."""
    bytes_P: np.ndarray
    """UTF-8 bytes of the scored tokens."""
    correct_P: np.ndarray
    """1 or 0 where the prompt has choices and an answer, NaN elsewhere."""
    kl_P: np.ndarray
    """KL(base || this) in nats, summed over the scored positions of all its sequences."""
    positions_P: np.ndarray
    """How many those are."""
    changed_PL: np.ndarray
    """Tokens whose expert set differs from the unsteered one, by router."""
    routed_P: np.ndarray
    """Tokens that passed each router."""
    texts: list[str] | None = None
    """What was generated, where that was asked for."""

    @classmethod
    def empty(cls, prompts: int, routers: int) -> Outcome:
        """Room for that many prompts and routers, nothing scored yet."""
        return cls(
            nll_P=np.zeros(prompts),
            tokens_P=np.zeros(prompts),
            bytes_P=np.zeros(prompts),
            correct_P=np.full(prompts, np.nan),
            kl_P=np.zeros(prompts),
            positions_P=np.zeros(prompts),
            changed_PL=np.zeros((prompts, routers)),
            routed_P=np.zeros(prompts),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain lists; NaN as None."""
        data: dict[str, Any] = {"texts": self.texts}
        for name, value in vars(self).items():
            if name != "texts":
                data[name] = np.where(np.isnan(value), np.array(None), value).tolist()
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        arrays = {name: np.array(value, float) for name, value in data.items() if name != "texts"}
        return cls(**arrays, texts=data["texts"])


@dataclass(frozen=True)
class Measure:
    """One effect: its value on each prompt, and how much each prompt weighs in the mean."""

    name: str
    base_P: np.ndarray
    steered_P: np.ndarray
    weights_P: np.ndarray


def measures(
    base: Outcome, steered: Outcome, classes: Mapping[str, Sequence[str]] | None = None
) -> list[Measure]:
    """All effects that these outcomes carry."""
    bits_P = base.bytes_P * math.log(2)
    routed_P = base.routed_P * max(1, base.changed_PL.shape[1])
    found = [
        _ratio("log_perplexity", base.nll_P, steered.nll_P, base.tokens_P),
        _ratio("bits_per_byte", base.nll_P, steered.nll_P, bits_P),
        Measure("accuracy", base.correct_P, steered.correct_P, np.isfinite(base.correct_P).astype(float)),
        _ratio("kl", np.zeros_like(steered.kl_P), steered.kl_P, base.positions_P),
        _ratio("changed", np.zeros_like(steered.kl_P), steered.changed_PL.sum(1), routed_P),
    ]
    if classes is not None and base.texts is not None and steered.texts is not None:
        from .evaluate_behaviour import classify

        kinds = [np.array([classify(text, classes) for text in side.texts or ()]) for side in (base, steered)]
        for name in classes:
            before_P, after_P = ((kind == name).astype(float) for kind in kinds)
            found.append(Measure(f"behaviour: {name}", before_P, after_P, np.ones(len(before_P))))
    return [measure for measure in found if measure.weights_P.any()]


def _ratio(name: str, base_P: np.ndarray, steered_P: np.ndarray, size_P: np.ndarray) -> Measure:
    """Sums over prompts divided by the sum of their sizes, as a weighted mean of quotients."""
    some = np.where(size_P > 0, size_P, 1)
    return Measure(name, base_P / some, steered_P / some, size_P)


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

    def effects(
        self,
        by: str | None = None,
        *,
        target: str | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
    ) -> pa.Table:
        """One row a variant, measure and group.

        Args:
            by: "language", "group" or a tag to split by; rows for all prompts are always there.
            target: a value of `by`; adds rows for its effect minus the mean effect on the other values.
            classes: response classes (name → regular expressions) to find in the generated texts.
        Returns:
            variant, kind, measure, group, base, steered, change, low, high (95 %), prompts, finding.
            `finding` is null for controls. It is true only where the profile's interval lies beyond 0 and
            beyond the interval of every control, on the side of its change, with at least 5 random draws.
        """
        rows = []
        for variant, outcome in self.variants.items():
            for measure in measures(self.base, outcome, classes):
                for group, chosen_P in self._masks(by).items():
                    rows += self._row(variant, measure, group, chosen_P)
                if target is not None and by is not None:
                    rows += self._contrast(variant, measure, by, target)
        _judge(rows)
        return pa.Table.from_pylist(rows, EFFECTS)

    def by_layer(self, by: str | None = None) -> pa.Table:
        """variant, kind, layer, stream, group, changed (share of tokens), low, high, prompts."""
        rows = []
        for variant, outcome in self.variants.items():
            for column, (layer, stream) in enumerate(self.routers):
                share = _ratio(
                    "changed", np.zeros(len(outcome.kl_P)), outcome.changed_PL[:, column], self.base.routed_P
                )
                for group, chosen_P in self._masks(by).items():
                    for row in self._row(variant, share, group, chosen_P):
                        rows.append({**row, "layer": layer, "stream": stream, "changed": row["change"]})
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

    def _masks(self, by: str | None) -> dict[str, np.ndarray]:
        """Group name → which prompts are in it."""
        masks = {ALL: np.ones(len(self.prompt_ids), bool)}
        if by is not None and by not in self.groups:
            raise ValueError(f"the prompts have no {by!r}; they have {', '.join(self.groups) or 'nothing'}")
        if by is not None:
            values = np.array([value or "" for value in self.groups[by]])
            masks |= {str(value): values == value for value in sorted(set(values)) if value}
        return masks

    def _row(self, variant: str, measure: Measure, group: str, chosen_P: np.ndarray) -> list[dict[str, Any]]:
        weights_P = measure.weights_P * chosen_P
        if not weights_P.any():
            return []
        interval = bootstrap_interval(
            measure.steered_P - measure.base_P, weights=weights_P, resamples=self.resamples
        )
        means = [_mean(values_P, weights_P) for values_P in (measure.base_P, measure.steered_P)]
        return [self._as_row(variant, measure.name, group, interval, *means)]

    def _contrast(self, variant: str, measure: Measure, by: str, target: str) -> list[dict[str, Any]]:
        """The target's effect minus the mean effect on the other groups, prompts resampled together."""
        masks = self._masks(by)
        del masks[ALL]
        if target not in masks:
            raise ValueError(f"no prompt has {by} {target!r}; there are {', '.join(masks)}")
        wanted = masks.pop(target)
        others = [mask for mask in masks.values() if (measure.weights_P * mask).any()]
        if not others or not (measure.weights_P * wanted).any():
            return []
        change_P = np.nan_to_num(measure.steered_P - measure.base_P)
        weights_GP = np.stack([measure.weights_P * mask for mask in (wanted, *others)])
        counts_BP = np.concatenate(list(resample(len(change_P), self.resamples, seed=0)))
        point, *_ = _contrasts(np.ones((1, len(change_P))), weights_GP, change_P)
        units = int(np.count_nonzero(weights_GP.any(0)))
        drawn_B1 = _contrasts(counts_BP, weights_GP, change_P)[:, None]
        low, high = percentile_bounds(drawn_B1, 0.95, units).ravel()
        interval = Interval(point, low, high, np.asarray(units))
        return [self._as_row(variant, measure.name, f"{target} − others", interval, None, None)]

    def _as_row(
        self,
        variant: str,
        measure: str,
        group: str,
        interval: Interval,
        base: float | None,
        steered: float | None,
    ) -> dict[str, Any]:
        numbers = {"change": interval.point, "low": interval.low, "high": interval.high}
        known = {"variant": variant, "kind": self.kinds[variant], "measure": measure, "group": group}
        return {
            **known, **{name: float(value) for name, value in numbers.items()},
            "base": base, "steered": steered, "prompts": int(interval.units), "finding": None,
        }  # fmt: skip


def _contrasts(counts_BP: np.ndarray, weights_GP: np.ndarray, change_P: np.ndarray) -> np.ndarray:
    """First group's weighted mean minus the mean of the others', in each resample; a group that a resample
    missed is left out. (B,)"""
    sizes_BG = counts_BP @ weights_GP.T
    with np.errstate(invalid="ignore"):
        means_BG = (counts_BP @ (weights_GP * change_P).T) / sizes_BG
    drawn_BG = sizes_BG[:, 1:] > 0
    rest_B = np.where(drawn_BG, means_BG[:, 1:], 0).sum(1) / np.maximum(drawn_BG.sum(1), 1)
    return np.where(drawn_BG.any(1), means_BG[:, 0] - rest_B, np.nan)


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean; NaN where nothing weighs."""
    used = weights > 0
    return float(np.average(values[used], weights=weights[used])) if used.any() else math.nan


def _judge(rows: list[dict[str, Any]]) -> None:
    """Sets `finding` on the profile's rows, from the controls' rows of the same measure and group."""
    for row in rows:
        if row["kind"] != PROFILE:
            continue
        rivals = [
            other
            for other in rows
            if other["kind"] != PROFILE
            and (other["measure"], other["group"]) == (row["measure"], row["group"])
        ]
        row["finding"] = is_finding(row, rivals)


def is_finding(row: Mapping[str, Any], controls: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an effect's interval lies beyond 0 and beyond every control's, on the side of its change."""
    if sum(control["kind"] == "random" for control in controls) < MIN_DRAWS:
        return False
    bounds = [row["low"], row["high"], *(value for c in controls for value in (c["low"], c["high"]))]
    if not all(map(math.isfinite, bounds)):
        return False
    if row["change"] > 0:
        return row["low"] > max(0.0, *(control["high"] for control in controls))
    return row["high"] < min(0.0, *(control["low"] for control in controls))


_KEY = [("variant", pa.string()), ("kind", pa.string())]
_RANGE = [("low", pa.float64()), ("high", pa.float64()), ("prompts", pa.int64())]
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

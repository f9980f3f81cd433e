"""The noise floor of a model's routing: what changes when nothing but the arithmetic's order or precision does.

A matrix product rounds by how many rows it has, by how many threads share it and by its precision. Where two experts
score nearly alike, that changes which one is chosen. A difference between two traces means something only above the
share of decisions that changes for such reasons alone.

    noise_of(trace)             what a trace's manifest says of it, or None where it was not measured
    noise_between(a, b)         the same for a comparison: the larger floor of either trace for each cause, with notes

`moescope doctor MODEL --noise PROMPTS` measures it, `moescope trace ... --noise N` keeps it in the manifest (`noise`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import pyarrow as pa

CAUSES = ("repeat", "batch", "threads", "attention", "dtype")
"""What is varied: nothing, how many prompts share a batch, threads, the attention's implementation, the precision."""


class _HasManifest(Protocol):
    @property
    def manifest(self) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Variation:
    """One pair of runs over the same prompts, alike but for one cause."""

    cause: str
    """Of `CAUSES`."""
    base: str
    """How the first run was made, in words: `1 prompt a batch`."""
    other: str
    events: int
    """Decisions compared: (token, router) pairs."""
    sets: int
    """Of those, how many have another set of experts."""
    order: int
    """How many have the same set in another order of gate weight."""
    weights: int
    """Gate weights of experts that both runs chose."""
    weights_changed: int
    """How many of those are stored as another number (float16)."""
    largest_weight_change: float
    """Of those weights before rounding."""
    low: float | None = None
    """95 % bootstrap interval of `set_share` over prompts; null below 5 prompts."""
    high: float | None = None

    @property
    def set_share(self) -> float:
        """Share of decisions with another set of experts; NaN where nothing was compared."""
        return self.sets / self.events if self.events else math.nan

    @property
    def order_share(self) -> float:
        return self.order / self.events if self.events else math.nan

    @property
    def weight_share(self) -> float:
        return self.weights_changed / self.weights if self.weights else math.nan

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Variation:
        return cls(**{field.name: data[field.name] for field in fields(cls) if field.name in data})


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The noise floor of one model on one machine."""

    dtype: str
    device: str
    prompts: int
    tokens: int
    variations: tuple[Variation, ...]
    notes: tuple[str, ...] = ()
    """What could not be varied, and why."""
    made: Mapping[str, Any] | None = None
    """The machine: processor, threads, attention, versions."""

    def of(self, cause: str) -> Variation | None:
        """The floor for one cause; None where it was not varied."""
        return next((one for one in self.variations if one.cause == cause), None)

    def to_json(self) -> dict[str, Any]:
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        return data | {"variations": [vars(one) for one in self.variations], "notes": list(self.notes)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Noise:
        """Raises KeyError, TypeError or AttributeError for what is no noise floor."""
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        known["variations"] = tuple(Variation.from_json(one) for one in data["variations"])
        return cls(**known | {"notes": tuple(data.get("notes") or ())})  # pyright: ignore[reportArgumentType]

    def table(self) -> pa.Table:
        """One row a cause: cause, base, other, events, set_share, low, high, order_share, weight_share,
        largest_weight_change."""
        return noise_table(self.variations)


def noise_table(variations: tuple[Variation, ...] | list[Variation]) -> pa.Table:
    """Variations as a table, see `Noise.table`."""
    names = [field.name for field in _SCHEMA]
    rows = [{name: getattr(one, name) for name in names} for one in variations]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def noise_of(trace: _HasManifest | Mapping[str, Any]) -> Noise | None:
    """The noise floor that a trace (or a manifest) records; None where it was not measured."""
    manifest = getattr(trace, "manifest", trace)
    data = manifest.get("noise")  # pyright: ignore[reportAttributeAccessIssue]
    return None if data is None else Noise.from_json(data)


def noise_between(
    a: _HasManifest | Mapping[str, Any], b: _HasManifest | Mapping[str, Any]
) -> tuple[list[Variation], list[str]]:
    """The floor under a comparison of two traces.

    Returns:
        For each cause that either trace measured the larger floor, in the order of `CAUSES`; and sentences on what is
        not known: a trace without a floor, floors of another precision.
    """
    found = [noise_of(side) for side in (a, b)]
    known = [noise for noise in found if noise is not None]
    rows = [
        max(measured, key=lambda one: one.set_share)
        for cause in CAUSES
        if (measured := [one for noise in known if (one := noise.of(cause)) is not None and one.events])
    ]
    notes = []
    if not known:
        notes.append(
            "Neither trace has a noise floor, so small differences may be rounding: record one with "
            "`moescope trace ... --noise 16`, or see `moescope doctor MODEL --noise PROMPTS`."
        )
    elif len(known) == 1:
        notes.append("Only one of the two traces has a noise floor; it stands for both.")
    elif known[0].dtype != known[1].dtype:
        notes.append(
            f"The traces ran in {known[0].dtype} and {known[1].dtype}; the larger floor of each cause is shown."
        )
    return rows, notes


_SCHEMA = pa.schema(
    [
        ("cause", pa.string()), ("base", pa.string()), ("other", pa.string()), ("events", pa.int64()),
        ("set_share", pa.float64()), ("low", pa.float64()), ("high", pa.float64()),
        ("order_share", pa.float64()), ("weight_share", pa.float64()), ("largest_weight_change", pa.float64()),
    ]
)  # fmt: skip

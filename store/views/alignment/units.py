"""Parallel units: the prompts of a trace as texts × languages, and what each layer says of them.

Shape legend: U parallel units, N languages, E experts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...errors import NotRecorded, StoreError, UnknownColumn
from ...read.arrays import sum_rows
from ...read.selection import Where
from ...read.trace_rows import TraceRows

UNITS = "parallel units"
"""What bootstraps here resample, as it is called in their notes."""


@dataclass(frozen=True, kw_only=True)
class Units:
    """The chosen prompts that have a language and a parallel id."""

    languages: list[str]
    """N, sorted; the pivot among them."""
    names: list[str]
    """U parallel ids."""
    pivot: int
    """Number of the pivot language."""
    cell_P: np.ndarray
    """(P,) unit * N + language of each prompt of the trace, -1 for those that take no part."""
    notes: list[str]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.names), len(self.languages)

    @cached_property
    def key(self) -> Hashable:
        """Equal for the same prompts in the same cells, whatever the pivot."""
        return (*self.languages, len(self.names), hashlib.sha256(self.cell_P.tobytes()).digest())

    @cached_property
    def single(self) -> bool:
        """Whether no cell holds two prompts."""
        return int(np.bincount(self.cell_P[self.cell_P >= 0]).max(initial=0)) <= 1

    @property
    def others(self) -> list[int]:
        """Numbers of the languages without the pivot."""
        return [number for number in range(len(self.languages)) if number != self.pivot]


def parallel_units(trace: TraceRows, pivot: str, where: Where | None) -> Units:
    """Pair prompts by `parallel_id`.

    Raises:
        NotRecorded: no prompt of the pivot language has a parallel id.
    """
    wanted_P = trace.prompt_mask(where)
    language, parallel = trace.groups("language"), trace.groups("parallel_id")
    languages = [name for name in language.names if name is not None]
    if pivot not in languages:
        raise UnknownColumn(
            f"no prompt has language {pivot!r}; the trace has: {', '.join(languages) or 'no languages'}"
        )
    names = [name for name in parallel.names if name is not None]
    paired_P = wanted_P & (language.group_P < len(languages)) & (parallel.group_P < len(names))
    pivot_number = languages.index(pivot)
    in_pivot = np.zeros(len(parallel.names), bool)
    in_pivot[parallel.group_P[paired_P & (language.group_P == pivot_number)]] = True
    if where and not (wanted_P & (language.group_P == pivot_number)).any():
        raise StoreError(
            f"the selection has no prompt in the pivot language {pivot!r}: take it in, or name another"
        )
    if not in_pivot.any():
        raise NotRecorded(
            f"no prompt in {pivot!r} has a parallel_id: give the translations of one text the same one"
        )
    partner_P = paired_P & in_pivot[parallel.group_P]
    kept = [n for n in range(len(languages)) if (partner_P & (language.group_P == n)).any()]
    present = {languages[n] for n in np.unique(language.group_P[wanted_P]) if n < len(languages)}
    lost = sorted(present - {languages[n] for n in kept})
    notes = [f"Left out, because none of their prompts has a translation in {pivot}: {', '.join(lost)}."]
    number_of = np.full(len(language.names), -1)
    number_of[kept] = np.arange(len(kept))
    units = np.flatnonzero(in_pivot)
    unit_of = np.full(len(parallel.names), -1)
    unit_of[units] = np.arange(len(units))
    cell_P = np.where(partner_P, unit_of[parallel.group_P] * len(kept) + number_of[language.group_P], -1)
    found = Units(
        languages=[languages[n] for n in kept],
        names=[names[u] for u in units],
        pivot=kept.index(pivot_number),
        cell_P=cell_P,
        notes=notes if lost else [],
    )
    if len(kept) == 1:
        found.notes.append(f"Only the pivot language {pivot} is left: there is no other to compare with it.")
    found.notes.extend(_coverage_notes(found))
    return found


def _coverage_notes(units: Units) -> list[str]:
    cells = np.bincount(units.cell_P[units.cell_P >= 0], minlength=units.shape[0] * units.shape[1])
    have_N = (cells.reshape(units.shape) > 0).sum(0)
    notes = []
    if have_N.min() < units.shape[0]:
        short = [
            f"{language} {have}"
            for language, have in zip(units.languages, have_N, strict=True)
            if have < units.shape[0]
        ]
        notes.append(f"Unequal coverage of the {units.shape[0]} units: {', '.join(short)}.")
    if cells.max() > 1:
        notes.append("Where a unit has several prompts in one language, their distributions are averaged.")
    return notes


def by_unit(units: Units, prompt_index: np.ndarray, values_PX: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of per-prompt values in each cell of the grid.

    Returns:
        values (U, N, ...), 0 where a language lacks the unit; present (U, N).
    """
    flat = values_PX.reshape(len(values_PX), math.prod(values_PX.shape[1:]))
    cell = np.where(np.isfinite(flat.sum(1)), units.cell_P[prompt_index], -1)
    cells = units.shape[0] * units.shape[1]
    sums = sum_rows(flat, cell, cells, np.float64)
    count = np.bincount(cell[cell >= 0], minlength=cells)
    sums[count > 1] /= count[count > 1, None]
    return sums.reshape(*units.shape, *values_PX.shape[1:]), (count > 0).reshape(units.shape)

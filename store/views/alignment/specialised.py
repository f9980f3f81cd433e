"""Which experts a language, or a task, uses more than the pivot language's text does.

Source: Bandarkar et al. 2025, arXiv 2510.04694. A frequency is the mean over sequences of the share of a
sequence's tokens that choose the expert; an expert is specialised where that exceeds the pivot's by more than
tau.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.alignment import KINDS, expert_kinds, specialised_experts
from ...errors import StoreError
from ...notes import with_notes
from ...read.selection import Where
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..options import DECODER, INTERVALS, Intervals, Routers
from ..registry import view
from .alignment import mean_interval
from .prompts import rate_sums, rates
from .units import UNITS, Units, by_unit, parallel_units

TAUS = tuple(round(0.05 * step, 2) for step in range(1, 13))


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Frequencies at one layer: M languages other than the pivot, E experts."""

    delta_ME: np.ndarray
    """Frequency in the language - in the pivot's text, mean over pairs."""
    task_E: np.ndarray | None
    """Frequency in the pivot's task prompts - in its general prompts."""
    pivot_E: np.ndarray
    """Frequency in the pivot's general text."""

    def kinds(self, languages: list[str], tau: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Kinds (E,) as numbers of `KINDS`, and the masks (M, E) and (E,) that they come from."""
        # The kernel takes two frequencies; the mean over pairs of their difference is one against zero.
        more_ME = np.clip(self.delta_ME, 0, 1)
        chosen_ME = specialised_experts(more_ME, np.zeros_like(more_ME), tau)
        task_E = np.zeros(chosen_ME.shape[-1], bool) if self.task_E is None else self.task_E > tau
        by_language = dict(zip(languages, chosen_ME, strict=True))
        if not by_language:
            return np.where(task_E, KINDS.index("task"), 0), chosen_ME, task_E
        return expert_kinds(by_language, task_E), chosen_ME, task_E


def differences(
    trace: TraceRows,
    units: Units,
    task: np.ndarray | None,
    layers: Sequence[int],
    stream: str,
    tokens: TokenFilter,
) -> list[Differences]:
    """Frequencies at each layer. `task` marks the pivot's task prompts, (P,), or is None."""

    def of(layer: int) -> Differences:
        delta_ME, pivot_E = _against_pivot(trace, units, layer, stream, tokens)
        task_E = None
        if task is not None:
            prompts_P, rate_PE = rates(trace, layer, stream, tokens)
            in_task = task[prompts_P]
            task_E = rate_PE[in_task].mean(0) - pivot_E if in_task.any() else np.zeros_like(pivot_E)
        return Differences(delta_ME=delta_ME, task_E=task_E, pivot_E=pivot_E)

    return trace.in_threads(of, layers)


def _against_pivot(
    trace: TraceRows, units: Units, layer: int, stream: str, tokens: TokenFilter
) -> tuple[np.ndarray, np.ndarray]:
    """Mean difference of each language from the pivot over their pairs (M, E), and the pivot's frequency (E,)."""
    key = ("rates", stream, tokens.key, units.key, layer)
    sum_NE, whole = trace.memo.get(key, lambda: rate_sums(trace, units, layer, stream, tokens))
    if whole.all():
        mean_NE = sum_NE / units.shape[0]
        return mean_NE[units.others] - mean_NE[units.pivot], mean_NE[units.pivot]
    rate_UNE, present_UN = by_unit(units, *rates(trace, layer, stream, tokens))
    if not present_UN[:, units.pivot].any():
        raise StoreError(f"no prompt of the pivot language {units.languages[units.pivot]!r} has such tokens")
    paired_UM = present_UN[:, units.others] & present_UN[:, [units.pivot]]
    more_UME = rate_UNE[:, units.others] - rate_UNE[:, [units.pivot]]
    more_UME[~paired_UM] = 0.0
    pairs_M = np.maximum(paired_UM.sum(0), 1)
    return more_UME.sum(0) / pairs_M[:, None], rate_UNE[present_UN[:, units.pivot], units.pivot].mean(0)


def unit_differences(
    trace: TraceRows, units: Units, layer: int, stream: str, tokens: TokenFilter, m: np.ndarray, e: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Differences (U, C) of language m and expert e in each unit, for C chosen cells, and paired (U, C)."""
    experts, column_C = np.unique(e, return_inverse=True)
    rate_UNX, present_UN = by_unit(units, *rates(trace, layer, stream, tokens, experts))
    language_C = np.array(units.others, np.int64)[m]
    more_UC = rate_UNX[:, language_C, column_C] - rate_UNX[:, units.pivot, column_C]
    return more_UC, present_UN[:, language_C] & present_UN[:, [units.pivot]]


def split_task(trace: TraceRows, pivot: str, task: str | None, where: Where | None) -> np.ndarray | None:
    """(P,) the pivot's prompts whose `group` is the task; None where no task is named."""
    if task is None:
        return None
    mask = trace.prompt_mask({**(where or {}), "group": [task], "language": [pivot]})
    if not mask.any():
        raise StoreError(f"no prompt in {pivot!r} has group {task!r}")
    return mask


def _general(trace: TraceRows, units: Units, task: str | None) -> Units:
    """The units without the task's prompts, so that a task expert is not measured against itself."""
    if task is None:
        return units
    general_P = ~trace.prompt_mask({"group": [task]})
    cell_P = np.where(general_P, units.cell_P, -1)
    if not (cell_P % units.shape[1] == units.pivot)[cell_P >= 0].any():
        raise StoreError(
            f"every pivot prompt belongs to the task {task!r}: there is no general text to compare"
        )
    return Units(
        languages=units.languages, names=units.names, pivot=units.pivot, cell_P=cell_P, notes=units.notes
    )


@view("specialised-experts")
def specialised(
    trace: TraceRows,
    *,
    tau: float = 0.3,
    pivot: str = "en",
    task: str | None = None,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    intervals: Intervals = INTERVALS,
) -> pa.Table:
    """Experts that a language (or a task) uses more often than the pivot's text, by more than tau.

    Args:
        tau: threshold on the difference of frequencies; the paper uses 0.25 to 0.5.
        pivot: the language that the others are compared with.
        task: a value of `group`: prompts of the pivot language in it show the task experts.
    Returns:
        layer, stream, expert, kind (language-specific: one language; multilingual: several; task; shared: a
        task and a language), language (one row for each that it is specialised for; null for the task),
        delta, low, high (95 % bootstrap over parallel units; null for the task), pivot_frequency, units.
    """
    units = _general(trace, parallel_units(trace, pivot, tokens.where), task)
    languages = [units.languages[n] for n in units.others]
    task_P = split_task(trace, pivot, task, tokens.where)
    rows: list[dict[str, Any]] = []
    chosen = routers.numbers(trace)
    for layer, found in zip(
        chosen, differences(trace, units, task_P, chosen, routers.stream, tokens), strict=True
    ):
        kinds_E, chosen_ME, task_E = found.kinds(languages, tau)
        m, e = np.nonzero(chosen_ME)
        more = unit_differences(trace, units, layer, routers.stream, tokens, m, e) if len(m) else None
        mean = None if more is None else mean_interval(*more, intervals)
        for at, (language, expert) in enumerate(zip(m, e, strict=True)):
            assert mean is not None
            low, high = (None if np.isnan(end[at]) else float(end[at]) for end in (mean.low, mean.high))
            rows.append(
                _row(layer, routers.stream, int(expert), kinds_E, found)
                | {"language": languages[language], "delta": float(mean.point[at])}
                | {"low": low, "high": high, "units": int(mean.units[at])}
            )
        for expert in np.flatnonzero(task_E):
            assert found.task_E is not None
            rows.append(
                _row(layer, routers.stream, int(expert), kinds_E, found)
                | {"delta": float(found.task_E[expert])}
            )
    rows.sort(key=lambda row: (row["layer"], row["expert"]))
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    return with_notes(table, [intervals.note(UNITS), *units.notes, tokens.note()])


def _row(layer: int, stream: str, expert: int, kinds_E: np.ndarray, found: Differences) -> dict[str, Any]:
    return {
        "layer": layer,
        "stream": stream,
        "expert": expert,
        "kind": KINDS[kinds_E[expert]],
        "pivot_frequency": float(found.pivot_E[expert]),
    }


_SCHEMA = pa.schema(
    [
        ("layer", pa.int32()),
        ("stream", pa.string()),
        ("expert", pa.int32()),
        ("kind", pa.string()),
        ("language", pa.string()),
        ("delta", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("pivot_frequency", pa.float64()),
        ("units", pa.int64()),
    ]
)


@view("specialised-counts")
def specialised_counts(
    trace: TraceRows,
    *,
    pivot: str = "en",
    task: str | None = None,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """How many experts of each layer are specialised, for a range of tau.

    Args:
        pivot, task: as in `specialised-experts`.
    Returns:
        tau (0.05 to 0.6), layer, stream, kind, experts (how many), of (experts of the layer).
    """
    units = _general(trace, parallel_units(trace, pivot, tokens.where), task)
    languages = [units.languages[n] for n in units.others]
    task_P = split_task(trace, pivot, task, tokens.where)
    rows = []
    chosen = routers.numbers(trace)
    for layer, found in zip(
        chosen, differences(trace, units, task_P, chosen, routers.stream, tokens), strict=True
    ):
        for tau in TAUS:
            kinds_E = found.kinds(languages, tau)[0]
            for number, kind in enumerate(KINDS[1:], start=1):
                row = {"tau": tau, "layer": layer, "stream": routers.stream, "kind": kind}
                rows.append(row | {"experts": int((kinds_E == number).sum()), "of": len(kinds_E)})
    return with_notes(pa.Table.from_pylist(rows), [*units.notes, tokens.note()])

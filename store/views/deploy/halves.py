"""The two parts of the prompts that every decision needs: one to fit on, one to report on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ...amount import amount
from ...errors import DecisionRefused
from ...read.selection import Where
from ...read.token_filter import TokenFilter
from ...read.trace_rows import TraceRows


@dataclass(frozen=True)
class Halves:
    """Prompts to fit on and prompts to report on; both masks over `Trace.prompts()`."""

    fit_P: np.ndarray
    report_P: np.ndarray
    note: str


def halves(trace: TraceRows, tokens: TokenFilter, fit: Where | None, seed: int) -> Halves:
    """Split the prompts of a filter.

    Args:
        fit: prompts to fit on; the others of the filter are reported on. Where None, a random half of the texts:
            translations of one text (`parallel_id`) stay together.
    Raises:
        DecisionRefused: no prompt is left for one of the two parts, although there are several.
    """
    chosen_P = trace.prompt_mask(tokens.where)
    if chosen_P.sum() == 1 and fit is None:
        note = "The trace has one sequence: fitted and reported on the same counts, which flatters every fit."
        return Halves(chosen_P, chosen_P, note)
    if fit is not None:
        fit_P = chosen_P & trace.prompt_mask(fit)
        said = "prompts of --fit-where"
    else:
        fit_P = chosen_P & _half(trace, seed)
        said = "a random half of the texts"
    report_P = chosen_P & ~fit_P
    if not (fit_P.any() and report_P.any()):
        raise DecisionRefused(
            f"{amount(fit_P.sum(), 'prompt')} to fit on and {report_P.sum()} to report on: both parts need at least one"
        )
    note = f"Fitted on {amount(fit_P.sum(), 'prompt')} ({said}), reported on the other {report_P.sum():,}."
    return Halves(fit_P, report_P, note)


def _half(trace: TraceRows, seed: int) -> np.ndarray:
    groups = trace.groups("parallel_id")
    text_P = groups.group_P.copy()
    if groups.names and groups.names[-1] is None:
        alone = text_P == len(groups.names) - 1
        text_P[alone] = len(groups.names) + np.arange(alone.sum())
    texts, text_P = np.unique(text_P, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(texts))
    return order[text_P] < (len(texts) + 1) // 2


@contextmanager
def refusals() -> Iterator[None]:
    """What a kernel can't do with these numbers is told as a sentence, not as a crash."""
    try:
        yield
    except ValueError as error:
        raise DecisionRefused(str(error)) from error

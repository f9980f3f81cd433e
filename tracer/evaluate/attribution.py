"""What an attribution found: sums of each prompt, and the share that the choice of experts carries.

The share is KL(A || A with B's routing) over KL(A || B), summed over prompts, with intervals over prompts. It is no
decomposition: effects of routing and of weights add up only to first order, and the share may exceed 1.
Importing this module does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ...kernels.statistics.bootstrap import bootstrap_interval
from ...store import Trace
from ...store.compare.by_layer import ends
from ...store.notes import with_notes
from ..prompts.prompt_set import PromptSet
from .effects import Evaluation

Which = Literal["A", "B", "A with B's routing"]
WHICH: tuple[Which, ...] = ("A", "B", "A with B's routing")
_SCHEMA = pa.schema(
    [("which", pa.string()), ("prompts", pa.int64()), ("tokens", pa.int64())]
    + [
        (name, pa.float64())
        for name in ("perplexity", "kl", "kl_low", "kl_high", "share", "share_low", "share_high")
    ]
)
_NOTE = (
    "The share is KL(A || A with B's routing) over KL(A || B). It is no decomposition: effects of routing and of "
    "weights add up only to first order, and the share may exceed 1."
)


@dataclass(frozen=True)
class Attribution:
    """Sums of each prompt; P prompts, by the names of `WHICH`."""

    prompt_ids: list[str]
    tokens_P: np.ndarray
    """Scored tokens."""
    nll: dict[str, np.ndarray]
    """Negative log-likelihood, nats, (P,)."""
    kl: dict[str, np.ndarray]
    """KL(A || this), nats, (P,)."""

    @classmethod
    def of_evaluation(cls, evaluation: Evaluation) -> Attribution:
        """From an evaluation of A whose variants are called as in `WHICH`; B may be missing."""
        base, there = evaluation.base, {name: evaluation.variants.get(name) for name in WHICH[1:]}
        outcomes = {WHICH[0]: base} | {name: found for name, found in there.items() if found is not None}
        return cls(
            prompt_ids=evaluation.prompt_ids,
            tokens_P=base.positions_P,
            nll={name: outcome.nll_P for name, outcome in outcomes.items()},
            kl={name: outcome.kl_P for name, outcome in outcomes.items()},
        )

    def table(self, *, resamples: int = 1000, seed: int = 0) -> pa.Table:
        """A row for A, B (where it was run), and A with B's routing: prompts, tokens, perplexity, kl (mean over tokens,
        nats) and share (of B's kl), with 95 % intervals over prompts; null where there is nothing to divide by."""
        total, rows = self.tokens_P.sum(), []
        for which in [name for name in WHICH if name in self.kl]:
            kl_P = self.kl[which]
            row: dict[str, Any] = {"which": which, "prompts": len(kl_P), "tokens": int(total)}
            row["perplexity"] = float(np.exp(self.nll[which].sum() / total))
            if which != "A":
                row |= _ratio("kl", kl_P, self.tokens_P, resamples, seed)
            if which == WHICH[2] and "B" in self.kl and self.kl["B"].sum() > 0:
                row |= _ratio("share", kl_P, self.kl["B"], resamples, seed)
            rows.append(row)
        notes = [_NOTE] if "B" in self.kl else []
        return with_notes(pa.Table.from_pylist(rows, schema=_SCHEMA), notes)


def _ratio(
    name: str, top_P: np.ndarray, bottom_P: np.ndarray, resamples: int, seed: int
) -> dict[str, float | None]:
    """The ratio of two sums and its interval."""
    means_P = np.divide(top_P, bottom_P, out=np.zeros(len(top_P)), where=bottom_P > 0)
    return ends(name, bootstrap_interval(means_P, weights=bottom_P, resamples=resamples, seed=seed))


def prompts_of(trace: Trace) -> PromptSet:
    """The prompts that a trace was made of, as a prompt set: texts and completions."""
    columns = ("prompt_id", "text", "language", "group", "parallel_id", "completion")
    rows = trace.prompts().select(list(columns)).to_pylist()
    named = [
        {"id" if key == "prompt_id" else key: value for key, value in row.items() if value is not None}
        for row in rows
    ]
    return PromptSet.from_rows(named)

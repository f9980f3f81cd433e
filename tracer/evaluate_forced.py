"""Forced passes: a batch of texts through the model, unsteered and under any number of steerings.

The unsteered pass of a batch runs once; each steering then costs one pass more, and is compared with it on the
same texts: token by token, layer by layer.

Shapes: B sequences, S padded length, T real tokens, N scored tokens, L routers, K experts per token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..store.schema import RouterSpec
from .batches import Batch, collate
from .encode import Encoded
from .record import record_routing

LOGIT_CELLS = 1 << 26
"""Next-token log-probabilities held of the unsteered pass (256 MiB)."""
_KL_CELLS = 1 << 23


@dataclass(frozen=True)
class Work:
    """A batch, and which of its tokens are scored; those in the order of (sequence, position)."""

    batch: Batch
    sequence_N: np.ndarray
    position_N: np.ndarray


@dataclass(frozen=True)
class Pass:
    """One pass over one batch."""

    logprob_N: np.ndarray
    """Of each scored token given all before it, float64 nats."""
    kl_N: np.ndarray
    """KL(base || this) of the distributions that predict the scored tokens, nats; 0 for the base itself."""
    changed_LT: np.ndarray
    """Whether this token's expert set at this router differs from the base's."""


@dataclass(frozen=True)
class Reference:
    """What the unsteered pass leaves behind for the others to be compared with."""

    result: Pass
    logprobs_NV: Tensor
    ids_LTK: list[Tensor]


def scored_tokens(sequence: Encoded) -> np.ndarray:
    """Which tokens of a sequence are scored, (T,) bool: the completion where there is one, else all of the
    user's own; never the first, which nothing predicts, nor special ones."""
    wanted = sequence.completion if sequence.completion.any() else np.ones(len(sequence), bool)
    scored = wanted & ~sequence.special
    scored[:1] = False
    return scored


def make_work(encoded: Sequence[Encoded], pad_id: int) -> Work:
    """One padded batch of these sequences."""
    batch = collate(encoded, pad_id=pad_id)
    scored_T = np.concatenate([scored_tokens(sequence) for sequence in encoded])
    return Work(batch, batch.sequence_T[scored_T], batch.position_T[scored_T])


class ForcedPasses:
    """Runs batches through one model.

    Args:
        routers: whose expert sets are compared, all of the text's.
    """

    def __init__(self, model: Any, routers: Sequence[RouterSpec]) -> None:
        self._model = model
        self._routers = list(routers)

    def base(self, work: Work) -> Reference:
        """The unsteered pass."""
        logprobs_NV, ids_LTK = self._run(work, None)
        unchanged = np.zeros((len(ids_LTK), len(work.batch.sequence_T)), bool)
        own = self._own(work, logprobs_NV)
        return Reference(Pass(own, np.zeros_like(own), unchanged), logprobs_NV, ids_LTK)

    def steered(self, work: Work, steering: Any, base: Reference) -> Pass:
        """A pass under a steering (None for none), compared with the unsteered one."""
        logprobs_NV, ids_LTK = self._run(work, steering)
        changed = [sets_differ(a, b) for a, b in zip(base.ids_LTK, ids_LTK, strict=True)]
        changed_LT = torch.stack(changed).cpu().numpy()
        return Pass(self._own(work, logprobs_NV), divergence(base.logprobs_NV, logprobs_NV), changed_LT)

    @torch.inference_mode()
    def _run(self, work: Work, steering: Any) -> tuple[Tensor, list[Tensor]]:
        """Log-probabilities (N, V) that predict the scored tokens, and expert ids (T, K) by router."""
        batch = work.batch
        device = self._model.get_input_embeddings().weight.device
        with record_routing(self._model, routers=self._routers, steering=steering) as routing:
            output = self._model(
                input_ids=batch.input_ids_BS.to(device),
                attention_mask=batch.mask_BS.to(device),
                use_cache=False,
            )
        logits_BSV = output.logits
        sequence_N, before_N = (
            torch.from_numpy(index).long().to(logits_BSV.device)
            for index in (work.sequence_N, work.position_N - 1)
        )
        logprobs_NV = logits_BSV[sequence_N, before_N].float().log_softmax(-1)
        ids = [routing.ids(spec.layer, spec.stream) for spec in self._routers]
        return logprobs_NV, [ids_RK[batch.keep_T.to(ids_RK.device)] for ids_RK in ids]

    def _own(self, work: Work, logprobs_NV: Tensor) -> np.ndarray:
        """Log-probability of each scored token, (N,) float64."""
        tokens_BS = work.batch.input_ids_BS
        token_N = tokens_BS[
            torch.from_numpy(work.sequence_N).long(), torch.from_numpy(work.position_N).long()
        ]
        own_N = logprobs_NV.gather(1, token_N.to(logprobs_NV.device).unsqueeze(1)).squeeze(1)
        return own_N.double().cpu().numpy()


def divergence(base_NV: Tensor, other_NV: Tensor) -> np.ndarray:
    """KL(base || other) of log-probabilities, (N,) float64 nats; not below 0, where rounding would put it."""
    parts = []
    step = max(1, _KL_CELLS // max(1, base_NV.shape[-1]))
    for start in range(0, len(base_NV), step):
        p, q = base_NV[start : start + step].double(), other_NV[start : start + step].double()
        term = p.exp() * (p - q)
        parts.append(torch.where(p == -torch.inf, 0.0, term).sum(-1))
    joined = torch.cat(parts) if parts else base_NV.new_zeros(0).double()
    return joined.clamp(min=0).cpu().numpy()


def sets_differ(a_TK: Tensor, b_TK: Tensor) -> Tensor:
    """Whether two choices of experts differ as sets, (T,) bool; -1 is an empty slot."""
    if a_TK.shape != b_TK.shape:
        width = max(a_TK.shape[-1], b_TK.shape[-1])
        a_TK, b_TK = (torch.nn.functional.pad(x, (0, width - x.shape[-1]), value=-1) for x in (a_TK, b_TK))
    return (a_TK.sort(-1).values != b_TK.sort(-1).values).any(-1)

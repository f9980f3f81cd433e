"""Forced passes: a batch of texts through the model, unsteered and under any number of steerings.

The unsteered pass of a batch runs once; each steering then costs one pass more, and is compared with it on the
same texts: token by token, layer by layer.

Shapes: B sequences, S padded length, T real tokens, N scored tokens, L routers, K experts per token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import TracerError
from ..generate.live_model import LiveModel
from ..generate.rounding import log_probabilities
from ..steering.profile import Steering
from ..steering.reach import first_acting
from ..tokens.batches import Batch, collate
from ..tokens.encode import Encoded

LOGIT_CELLS = 1 << 25
"""Next-token log-probabilities held of the unsteered pass (256 MiB)."""
_KL_CELLS = 1 << 23


@dataclass(frozen=True)
class Work:
    """A batch, and which of its tokens are scored; those in the order of (sequence, position)."""

    batch: Batch
    sequence_N: np.ndarray
    position_N: np.ndarray

    @property
    def place_N(self) -> np.ndarray:
        """Where the scored tokens stand among the real tokens of the batch."""
        first_B = np.cumsum([0, *(len(sequence) for sequence in self.batch.encoded)])[:-1]
        return first_B[self.sequence_N] + self.position_N

    @property
    def prompt_lengths(self) -> list[int]:
        """Tokens of each sequence before its completion, for rules on prompts or on what follows them."""
        return [sequence.prompt_length for sequence in self.batch.encoded]


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
    """Runs batches through one model."""

    def __init__(self, live: LiveModel) -> None:
        self._live = live

    def base(self, work: Work) -> Reference:
        """The unsteered pass."""
        return self.alone(work, None)

    def steered(self, work: Work, steering: Steering | None, base: Reference) -> Pass:
        """A pass under a steering, compared with the unsteered one."""
        first_B = self._first_acting(work, steering)
        logprobs_NV, ids_LTK = self._run(work, steering)
        changed = [sets_differ(a, b) for a, b in zip(base.ids_LTK, ids_LTK, strict=True)]
        changed_LT = torch.stack(changed).cpu().numpy()
        # Where nothing acts yet both models are one: a difference would be rounding.
        changed_LT[:, work.batch.position_T < first_B[work.batch.sequence_T]] = False
        same_N = torch.from_numpy(work.position_N <= first_B[work.sequence_N]).to(logprobs_NV.device)
        logprobs_NV = torch.where(same_N.unsqueeze(1), base.logprobs_NV, logprobs_NV)
        return Pass(self._own(work, logprobs_NV), divergence(base.logprobs_NV, logprobs_NV), changed_LT)

    def alone(self, work: Work, steering: Steering | None) -> Reference:
        """A pass under a steering, compared with nothing."""
        logprobs_NV, ids_LTK = self._run(work, steering)
        own = self._own(work, logprobs_NV)
        unchanged = np.zeros((len(ids_LTK), len(work.batch.sequence_T)), bool)
        return Reference(Pass(own, np.zeros_like(own), unchanged), logprobs_NV, ids_LTK)

    def _first_acting(self, work: Work, steering: Steering | None) -> np.ndarray:
        """(B,) float64: the first position of each sequence on which a rule acts, infinity for none."""
        rules, specs = steering.rules if steering else (), self._live.routers
        return np.array([first_acting(rules, specs, length) for length in work.prompt_lengths], np.float64)

    @torch.inference_mode()
    def _run(self, work: Work, steering: Steering | None) -> tuple[Tensor, list[Tensor]]:
        """Log-probabilities (N, V) that predict the scored tokens, and expert ids (T, K) by router."""
        batch, device = work.batch, self._live.device
        output, routed = self._live.forward(
            [steering],
            same=True,
            prompt_lengths=work.prompt_lengths,
            input_ids=batch.input_ids_BS.to(device),
            attention_mask=batch.mask_BS.to(device),
            use_cache=False,
        )
        sequence_N, before_N = (
            torch.from_numpy(index).long().to(output.logits.device)
            for index in (work.sequence_N, work.position_N - 1)
        )
        logprobs_NV = log_probabilities(output.logits[sequence_N, before_N])
        if bool(torch.isnan(logprobs_NV).any()):
            raise TracerError("the model's next-token logits are NaN")
        ids_LRK = [routed[key] for key in self._live.keys]
        return logprobs_NV, [ids_RK[batch.keep_T.to(ids_RK.device)] for ids_RK in ids_LRK]

    def _own(self, work: Work, logprobs_NV: Tensor) -> np.ndarray:
        """Log-probability of each scored token, (N,) float64."""
        tokens_BS = work.batch.input_ids_BS
        index = (torch.from_numpy(values).long() for values in (work.sequence_N, work.position_N))
        token_N = tokens_BS[tuple(index)].to(logprobs_NV.device)
        return logprobs_NV.gather(1, token_N.unsqueeze(1)).squeeze(1).double().cpu().numpy()


def divergence(base_NV: Tensor, other_NV: Tensor) -> np.ndarray:
    """KL(base || other) of log-probabilities, (N,) float64 nats; not below 0, where rounding would put it."""
    parts = []
    step = max(1, _KL_CELLS // max(1, base_NV.shape[-1]))
    for start in range(0, len(base_NV), step):
        p, q = base_NV[start : start + step].double(), other_NV[start : start + step].double()
        parts.append(torch.where(p == -torch.inf, 0.0, p.exp() * (p - q)).sum(-1))
    joined = torch.cat(parts) if parts else base_NV.new_zeros(0).double()
    return joined.clamp(min=0).cpu().numpy()


def sets_differ(a_TK: Tensor, b_TK: Tensor) -> Tensor:
    """Whether two choices of experts differ as sets, (T,) bool; -1 is an empty slot."""
    if a_TK.shape != b_TK.shape:
        width = max(a_TK.shape[-1], b_TK.shape[-1])
        a_TK, b_TK = (torch.nn.functional.pad(x, (0, width - x.shape[-1]), value=-1) for x in (a_TK, b_TK))
    return (a_TK.sort(-1).values != b_TK.sort(-1).values).any(-1)

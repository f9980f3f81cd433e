"""How much of the difference between two models the choice of experts carries.

1. Every batch of texts runs through A, through B, and through A with the routing of B's trace replayed.
2. Per prompt: KL of A's next-token distributions to those of the other two, and everyone's log-likelihood.
3. `attribution.Attribution` makes the table of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from ...store import Trace
from ..generate.batch import pad_token_id
from ..generate.live_model import LiveModel
from ..models.forward import max_length
from ..prompts.prompt_set import PromptSet
from ..steering.profile import Steering
from ..tokens.batches import plan_batches
from ..tokens.encode import Encoder
from .attribution import WHICH, Attribution, prompts_of
from .forced_passes import ForcedPasses, Work, divergence, make_work
from .run import batch_cells

__all__ = ["Attribution", "attribute_routing", "prompts_of"]


def attribute_routing(
    a: Any,
    b: Any,
    tokenizer: Any,
    trace_b: Trace,
    prompts: PromptSet,
    *,
    steering_a: Steering | None = None,
    steering_b: Steering | None = None,
    weights: Literal["live", "recorded"] = "live",
    chat: bool = False,
    batch_tokens: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Run A, B, and A with B's routing over the same texts.

    Args:
        a, b: models; one object twice where only a steering differs.
        tokenizer: of both.
        trace_b: B's routing of these prompts.
        prompts: what is run; every token of theirs must have its events in the trace.
        steering_a, steering_b: what was in force when A and B were traced.
        weights: gate weights of the replayed experts: A's own (`live`) or B's.
        chat: put the prompts through the chat template.
        progress: told how many batches are done, and of how many.
    Raises:
        SteeringError: a token that the trace lacks, or a router that cannot replay.
    """
    replay = (steering_a or Steering()) + Steering.replay(trace_b, weights=weights)
    encoded = Encoder(tokenizer, chat=chat, max_length=max_length(a)).prompts(list(prompts))
    tally = _Sums(len(encoded))
    with LiveModel(a.eval()) as live_a, LiveModel(b.eval()) as live_b:
        plan = plan_batches(np.array([len(one) for one in encoded]), batch_cells(live_a, batch_tokens))
        for done, numbers in enumerate(plan, 1):
            work = make_work([encoded[i] for i in numbers], pad_token_id(tokenizer))
            sides = [(live_a, steering_a), (live_b, steering_b), (live_a, replay)]
            _one_batch(tally, numbers, work, sides)
            if progress is not None:
                progress(done, len(plan))
    return Attribution([prompt.id for prompt in prompts], tally.tokens_P, tally.nll, tally.kl)


class _Sums:
    def __init__(self, prompts: int) -> None:
        self.tokens_P = np.zeros(prompts)
        self.nll = {which: np.zeros(prompts) for which in WHICH}
        self.kl = {which: np.zeros(prompts) for which in WHICH}


def _one_batch(
    tally: _Sums, numbers: np.ndarray, work: Work, sides: Sequence[tuple[LiveModel, Steering | None]]
) -> None:
    base = None
    tally.tokens_P[numbers] = np.bincount(work.sequence_N, minlength=len(numbers))
    for which, (live, steering) in zip(WHICH, sides, strict=True):
        found = ForcedPasses(live).alone(work, steering)
        # One model may be on both sides: its steering must not outlive its pass.
        live.rest()
        base = base or found
        kl_N = divergence(base.logprobs_NV, found.logprobs_NV.to(base.logprobs_NV.device))
        tally.kl[which][numbers] = np.bincount(work.sequence_N, kl_N, len(numbers))
        tally.nll[which][numbers] = np.bincount(work.sequence_N, -found.result.logprob_N, len(numbers))

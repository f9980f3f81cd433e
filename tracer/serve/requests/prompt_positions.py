"""Along the prompt of a comparison: what both models say about every token of it, from the pass that read it.

The logits of that pass are kept until the first tokens have been sent, and are then worked through in pieces, so
that nobody waits for it. What is kept is limited: of a longer prompt the last tokens are compared.

Shapes: P positions, N of them in a piece, S prompt tokens, V vocabulary entries, K experts per token. Of two
sequences the first is the base, the second steered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ....store.schema import RouterKey
from ...evaluate.forced_passes import divergence, sets_differ
from ...generate.lanes import SIDES, PromptPass, finite
from ...generate.rounding import log_probabilities
from ...steering.profile import Steering
from ...steering.reach import first_acting
from ..engine.served import Served
from ..limits import Limits

Event = dict[str, Any]
LOGIT_BYTES = 1 << 28
"""Most that the kept logits of both models take together."""
PIECE_VALUES = 1 << 20
"""Logits of one model that are worked through before others have their turn."""


def rows_to_keep(served: Served, tokens: int, limits: Limits) -> int:
    """Of how many of a prompt's last positions the pass must keep the logits."""
    config = served.model.config
    if config.is_encoder_decoder:
        return 1
    row_bytes = 2 * config.get_text_config().vocab_size * served.model.dtype.itemsize
    return max(min(tokens, limits.prompt_positions + 1, LOGIT_BYTES // row_bytes), 1)


def note(served: Served, tokens: int, compared: int) -> str | None:
    """Why not every token of a prompt is compared; None where all are that something predicts."""
    if served.model.config.is_encoder_decoder:
        return "the prompt is read by the encoder, which predicts no tokens"
    return (
        f"the last {compared} of the prompt's {tokens} tokens are compared" if compared < tokens - 1 else None
    )


def first_steered(served: Served, steering: Steering | None, tokens: int) -> float:
    """The first position, of the prompt or of what follows it, on which a rule acts; infinity where none does."""
    first = first_acting(steering.rules if steering else (), served.routers, tokens)
    # An encoder's positions are not the decoder's.
    return 0 if served.model.config.is_encoder_decoder and math.isfinite(first) else first


def along_prompt(
    served: Served, ids: Sequence[int], kept: PromptPass, candidates: int, same_until: float = 0
) -> Iterator[list[Event]]:
    """An entry for each prompt token whose prediction was kept, in their order, piece by piece.

    Args:
        ids: all tokens of the prompt.
        candidates: how many of the likeliest tokens of both models to tell at each position.
        same_until: no rule acts before this position, so that both models are one there. Two sequences of one pass
            may still differ in the last bit, as matrix products of many rows are rounded by where a row stands.
    """
    same_until = int(min(same_until, len(ids)))
    logits_2PV, texts = kept.logits_BPV[:, :-1], _Texts(served)
    count = logits_2PV.shape[1]
    first = len(ids) - count
    routing = _routing(kept.experts, same_until)
    step = max(PIECE_VALUES // logits_2PV.shape[-1], 1)
    for start in range(0, count, step):
        logprobs_2NV = log_probabilities(logits_2PV[:, start : start + step])
        if bool(torch.isnan(logprobs_2NV).any()):
            raise ValueError("the model's next-token logits are NaN")
        same = max(same_until - (first + start - 1), 0)
        logprobs_2NV[1, :same] = logprobs_2NV[0, :same]
        positions = range(first + start, first + start + logprobs_2NV.shape[1])
        own = [ids[position] for position in positions]
        numbers = _predictions(logprobs_2NV, own, candidates, texts)
        yield [
            {"position": position, "token_id": token, "token": texts(token)} | said | routing(position - 1)
            for position, token, said in zip(positions, own, numbers, strict=True)
        ]


def _predictions(logprobs_2NV: Tensor, own: list[int], candidates: int, texts: _Texts) -> list[Event]:
    """What the two distributions at each position say about the token that follows."""
    own_2N1 = torch.tensor(own, device=logprobs_2NV.device).expand(2, -1).unsqueeze(-1)
    logprob_2N = logprobs_2NV.gather(-1, own_2N1).squeeze(-1).tolist()
    events: list[Event] = [
        {"logprob": dict(zip(SIDES, map(finite, pair), strict=True)), "kl": finite(kl)}
        for pair, kl in zip(zip(*logprob_2N, strict=True), divergence(*logprobs_2NV).tolist(), strict=True)
    ]
    if candidates:
        top = logprobs_2NV.topk(min(candidates, logprobs_2NV.shape[-1]), dim=-1)
        for side, ids_NC, values_NC in zip(SIDES, top.indices.tolist(), top.values.tolist(), strict=True):
            for event, ids, values in zip(events, ids_NC, values_NC, strict=True):
                rows = [[i, texts(i), finite(value)] for i, value in zip(ids, values, strict=True)]
                event.setdefault("candidates", {})[side] = rows
    return events


def _routing(experts: dict[RouterKey, Tensor], same_until: int) -> Callable[[int], Event]:
    """Position → the experts of both models there, and the routers whose sets differ."""
    experts = {key: ids_2SK.clone() for key, ids_2SK in experts.items()}
    for ids_2SK in experts.values():
        ids_2SK[1, :same_until] = ids_2SK[0, :same_until]
    chosen = {key.name: ids_2SK.tolist() for key, ids_2SK in experts.items()}
    differ = {key.name: sets_differ(*ids_2SK).tolist() for key, ids_2SK in experts.items()}

    def at(position: int) -> Event:
        of_sides = {
            side: {name: [e for e in rows[row][position] if e >= 0] for name, rows in chosen.items()}
            for row, side in enumerate(SIDES)
        }
        return {"experts": of_sides, "changed": [name for name, marks in differ.items() if marks[position]]}

    return at


class _Texts:
    """Tokens as text, each asked for once."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._known: dict[int, str] = {}

    def __call__(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self._served.token_texts([token])[0]
        return self._known[token]

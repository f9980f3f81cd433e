"""A lane: texts that grow token by token, each under its own steering, in one forward pass a step.

A lane has a key-value cache of its own, so nothing that other requests do reaches it.

Shapes: B sequences, S tokens of this call, P of them with logits, V vocabulary entries, K experts per token.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...store.schema import RouterKey
from ..steering.profile import Steering
from .live_model import LiveModel
from .rounding import log_probabilities

Side = Literal["base", "steered"]
SIDES: tuple[Side, Side] = ("base", "steered")
"""The two sequences of a comparison, in their order."""


class PromptPass(NamedTuple):
    """What the pass over the prompts says about all their tokens, on the model's device."""

    logits_BPV: Tensor
    """Of the last P positions; the last of them predicts the first new token."""
    experts: dict[RouterKey, Tensor]
    """By router: (B, S, K) as executed, in descending gate weight, -1 for an empty slot."""


class Step(NamedTuple):
    """What one step of a lane says about the next token of each of its sequences."""

    logprobs_BV: Tensor
    """Log-probabilities, float64 on the CPU."""
    experts: dict[RouterKey, list[list[int]]]
    """By router: for each sequence the experts at its last token, without empty slots."""
    prompt: PromptPass | None = None
    """Of the first step, where more than its last position is kept."""


class Lane:
    """Sequences that run side by side.

    Args:
        prompts: token ids of each sequence; shorter ones are padded on the left.
        steerings: one for each sequence.
        keep: of how many of the prompts' last positions the first step keeps the logits.
        prompt_lengths: tokens of each that rules for the prompt act on; all of them if left out.
        same_until: before this position no steering acts (`first_acting`), so that all sequences get what the first
            says there: two places of a batch may differ in the last bit.
    """

    def __init__(
        self,
        live: LiveModel,
        prompts: Sequence[Sequence[int]],
        steerings: Sequence[Steering | None],
        pad_id: int = 0,
        *,
        keep: int = 1,
        prompt_lengths: Sequence[int] | None = None,
        same_until: float = 0,
    ) -> None:
        self._live = live
        self._steerings = list(steerings)
        self._wanted = keep
        self._prompt_lengths = prompt_lengths
        self._same_until = same_until
        self._accepts = inspect.signature(live.model.forward).parameters
        width = self._tokens = max(map(len, prompts))
        rows = [[pad_id] * (width - len(ids)) + list(ids) for ids in prompts]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
        self._next_BS = torch.tensor(rows, device=live.device)
        self._mask_BS = torch.tensor(mask, device=live.device)
        self._padded = not bool(self._mask_BS.all())
        self._state: dict[str, Any] = {}
        self._encoder_decoder = bool(live.model.config.is_encoder_decoder)
        if self._encoder_decoder:
            self._state["input_ids"] = self._next_BS
            self._next_BS = torch.full_like(self._next_BS[:, :1], live.model.config.decoder_start_token_id)

    @property
    def size(self) -> int:
        return len(self._steerings)

    def step(self) -> Step:
        """Run what was fed last (at first the prompts), and say what may come next."""
        output, routed = self._live.forward(
            self._steerings,
            same=len(self._steerings) == 1,
            prompt_lengths=self._prompt_lengths,
            **self._inputs(),
        )
        self._keep(output)
        logits_BV = output.logits[:, -1]
        same = self._tokens <= self._same_until  # the last token of this call stands at self._tokens - 1
        if same:
            logits_BV = logits_BV[:1].expand_as(logits_BV)
        if bool(torch.isnan(logits_BV).any()):
            raise ValueError("the model's next-token logits are NaN")
        batch, length = self._next_BS.shape
        ids_BSK = {
            key: ids_RK.view(batch, length, -1)
            for key, ids_RK in routed.items()
            if len(ids_RK) == batch * length
        }
        experts = {
            key: [[e for e in row if e >= 0] for row in ids[:, -1].tolist()] for key, ids in ids_BSK.items()
        }
        if same:
            experts = {key: rows[:1] * batch for key, rows in experts.items()}
        prompt = None
        if self._wanted > 1:
            prompt = PromptPass(output.logits[:, -self._wanted :].contiguous(), ids_BSK)
            self._wanted = 1
        return Step(log_probabilities(logits_BV).cpu(), experts, prompt)

    def feed(self, tokens: Sequence[int]) -> None:
        """The next token of each sequence."""
        self._next_BS = torch.tensor(tokens, device=self._live.device).unsqueeze(-1)
        self._tokens += 1
        if not self._encoder_decoder:
            self._mask_BS = torch.cat([self._mask_BS, torch.ones_like(self._next_BS)], -1)

    def fork(self) -> Lane:
        """A second lane that goes on from here by itself."""
        other = copy.copy(self)
        with torch.inference_mode():
            other._state = copy.deepcopy(self._state)
        return other

    def _inputs(self) -> dict[str, Any]:
        inputs: dict[str, Any] = {"attention_mask": self._mask_BS, "use_cache": True, **self._state}
        if self._encoder_decoder:
            return inputs | {"decoder_input_ids": self._next_BS}
        inputs["input_ids"] = self._next_BS
        if "logits_to_keep" in self._accepts:
            inputs["logits_to_keep"] = self._wanted
        if self._padded and "position_ids" in self._accepts:
            positions_BS = (self._mask_BS.cumsum(-1) - 1).clamp(min=0)
            inputs["position_ids"] = positions_BS[:, -self._next_BS.shape[1] :]
        return inputs

    def _keep(self, output: Any) -> None:
        if output.past_key_values is None:
            raise ValueError(
                f"{type(self._live.model).__name__} returns no key-value cache, which generation needs"
            )
        self._state = {"past_key_values": output.past_key_values}
        if self._encoder_decoder:
            self._state["encoder_outputs"] = (output.encoder_last_hidden_state,)


def finite(value: float) -> float | None:
    """As JSON can hold it."""
    return value if math.isfinite(value) else None

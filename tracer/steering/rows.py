"""Which rows of a router belong to which sequence and position, while a model runs.

The stack of layers is called with a batch of sequences; a hook there notes (batch, length), the attention
mask and how much lies in the cache. Routers inside see the same tokens flattened, row b * length + i.

Shapes: B sequences, S tokens of this call, T = B * S rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SteeringError
from .protect import AttentionPaid
from .rules import PositionSpan, Rule

Rows = Tensor | bool
"""Rows that a rule acts on: True for all, False for none, else (T,) bool."""


@dataclass(frozen=True)
class Fed:
    """What the sequences of a batch have read so far."""

    tokens: list[list[int]]
    """Token ids of each sequence, padding left out."""
    real_BS: Tensor
    """Which tokens of this call are no padding, on the CPU."""
    ended: list[bool]
    """Whether a generated token ended the sequence: what it is fed from then on only keeps the batch going."""


@dataclass(frozen=True)
class Program:
    """Rules for the sequences of a batch that they are for."""

    rules: tuple[Rule, ...]
    rows: RowMap
    sequences: tuple[bool, ...] | None = None
    """Which sequences of the batch (None: all)."""
    paid: AttentionPaid | None = None
    """The attention of the router's layer, where a rule asks for it."""

    def on_all(self, rule: Rule) -> bool:
        """Whether one of the rules acts on every row, whatever is running."""
        return self.sequences is None and rule.span.everywhere

    def rows_of(self, rule: Rule, count: int, router: str) -> Rows:
        """As `RowMap.rows`, for one of the rules."""
        return self.rows.rows(rule.span, self.sequences, count, router)


class RowMap:
    """The batch that is running through one stack of layers at this moment."""

    def __init__(
        self,
        prompt_lengths: Tensor | Sequence[int] | int | None = None,
        *,
        stop_ids: Sequence[int] = (),
    ) -> None:
        self.prompt_lengths = prompt_lengths
        self._stop_ids = torch.as_tensor(list(stop_ids), dtype=torch.int64)
        self.asked = True
        """Whether anyone may ask for rows: nothing is noted where not."""
        self.shape: tuple[int, int] = (0, 0)
        self._past = 0
        self._mask: Tensor | None = None
        self._position_ids: Tensor | None = None
        self._device = torch.device("cpu")
        self._rows: dict[tuple[Any, ...], Rows] = {}
        self.follows = False
        """Whether anyone asks which tokens were read: they are then copied to the CPU at every call."""
        self.replayed: dict[tuple[Any, ...], int] = {}
        """How many rows of each recorded routing were replayed at each router."""
        self._fed: Fed | None = None

    def watch(self, stack: nn.Module):
        """Start noting the calls of a stack of layers; returns the handle that ends it."""
        return stack.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.asked:
            return
        tokens = next(
            (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.dim() in (2, 3)), None
        )
        for name in ("inputs_embeds", "input_ids", "decoder_input_ids"):
            tokens = kwargs[name] if isinstance(kwargs.get(name), Tensor) else tokens
        if tokens is None:
            raise SteeringError(f"{type(module).__name__} was called without input_ids or inputs_embeds")
        mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        self.shape, self._device = (tokens.shape[0], tokens.shape[1]), tokens.device
        self._mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
        self._position_ids = positions if isinstance(positions, Tensor) and positions.dim() == 2 else None
        self._past = self._cached(kwargs.get("past_key_values"))
        self._rows.clear()
        if self.follows:
            self._follow(tokens)

    def _follow(self, tokens: Tensor) -> None:
        """Add the tokens of this call to what each sequence has read."""
        if tokens.dim() != 2 or tokens.is_floating_point():
            self._fed = None
            return
        real_BS = self.real().cpu()
        begun = Fed([[]] * self.shape[0], real_BS, [False] * self.shape[0])
        before = self._fed if self._fed is not None and self._past else begun
        if len(before.tokens) != self.shape[0]:
            raise SteeringError(
                f"the batch had {len(before.tokens)} sequences and has {self.shape[0]} now: cannot replay"
            )
        tokens_BS = tokens.cpu()
        read = [ids[real].tolist() for ids, real in zip(tokens_BS, real_BS, strict=True)]
        ended = before.ended
        if self._past and self.shape[1] == 1:  # a step of generation; prompts may hold such tokens anywhere
            stops_B = torch.isin(tokens_BS[:, 0], self._stop_ids).tolist()
            ended = [old or stop for old, stop in zip(ended, stops_B, strict=True)]
        self._fed = Fed([old + new for old, new in zip(before.tokens, read, strict=True)], real_BS, ended)

    def fed(self) -> Fed:
        """What each sequence has read. Raises SteeringError where the stack is called without token ids."""
        if self._fed is None:
            raise SteeringError(
                "the layers are called with embeddings, not token ids: a trace cannot be replayed here"
            )
        return self._fed

    def real(self) -> Tensor:
        """(B, S) bool: which tokens of this call are no padding."""
        if self._mask is not None and self._mask.shape[1] == self._past + self.shape[1]:
            return self._mask[:, -self.shape[1] :].bool()
        return torch.ones(self.shape, dtype=torch.bool, device=self._device)

    def _cached(self, cache: Any) -> int:
        length = cache.get_seq_length() if hasattr(cache, "get_seq_length") else 0
        if not length and self._mask is not None:
            return max(self._mask.shape[1] - self.shape[1], 0)
        return int(length)

    def rows(self, span: PositionSpan, sequences: tuple[bool, ...] | None, count: int, router: str) -> Rows:
        """Rows that lie in the span and in the sequences (None: all)."""
        if span.everywhere and sequences is None:
            return True
        batch, length = self.shape
        if count != batch * length:
            raise SteeringError(
                f"{router} decides on {count} rows, not on the {batch} x {length} tokens of the batch, so rules "
                "for spans or single sequences cannot act there"
            )
        key = (span, sequences)
        if key not in self._rows:
            self._rows[key] = self._found(span, sequences)
        return self._rows[key]

    def _found(self, span: PositionSpan, sequences: tuple[bool, ...] | None) -> Rows:
        if self._misses(span):
            return False
        rows_BS = self._in_span(span)
        if sequences is not None:
            rows_BS = rows_BS & self._chosen(sequences)
        return rows_BS.expand(self.shape).reshape(-1)

    def _misses(self, span: PositionSpan) -> bool:
        """Whether no token of this call lies in a span, where that is known without a look at positions."""
        if span.phase == "all" or self.prompt_lengths is not None:
            return False
        return (self._past == 0) == (span.phase == "generation")

    def _in_span(self, span: PositionSpan) -> Tensor:
        if span.everywhere:
            return torch.ones(self.shape, dtype=torch.bool, device=self._device)
        position_BS = self.positions()
        rows_BS = position_BS >= span.start
        if span.stop is not None:
            rows_BS = rows_BS & (position_BS < span.stop)
        return (
            rows_BS
            if span.phase == "all"
            else rows_BS & (self._is_prompt(position_BS) ^ (span.phase != "prompt"))
        )

    def _is_prompt(self, position_BS: Tensor) -> Tensor:
        if self.prompt_lengths is None:
            return torch.full(self.shape, self._past == 0, device=self._device)
        lengths = torch.as_tensor(self.prompt_lengths, device=self._device).reshape(-1, 1)
        return position_BS < lengths.repeat_interleave(max(self.shape[0] // len(lengths), 1), dim=0)

    def positions(self) -> Tensor:
        """(B, S): position of each token in its own sequence, padding left out."""
        if self._mask is not None and self._mask.shape[1] == self._past + self.shape[1]:
            return (self._mask.long().cumsum(-1) - 1)[:, -self.shape[1] :]
        if self._position_ids is not None:
            return self._position_ids.expand(self.shape)
        return (torch.arange(self.shape[1], device=self._device) + self._past).expand(self.shape)

    def _chosen(self, sequences: tuple[bool, ...]) -> Tensor:
        """(B, 1) bool. Where the batch is a multiple (beams, several answers), each sequence is repeated."""
        batch = self.shape[0]
        if batch % len(sequences):
            raise SteeringError(
                f"the batch has {batch} sequences, but steering was given for {len(sequences)} of them"
            )
        chosen = torch.tensor(sequences).repeat_interleave(batch // len(sequences))
        return chosen.to(self._device, non_blocking=True).unsqueeze(-1)

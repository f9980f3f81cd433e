"""A model with the hooks of recording and steering standing on it, ready for one forward pass after another.

Finding the routers costs more than a step of generation, so it is done once. Setting a steering up costs a
part of a step, so it stays until a pass wants another one; `rest` takes it away before other work on the model.

Shapes: B sequences, S tokens of this call, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from ...store.schema import RouterKey, RouterSpec
from ..hooks.record import attach
from ..models.input_device import input_device
from ..routers.find import routers_to_trace, traced_routers
from ..steering.profile import PerSequence, Steering

Wish = tuple[tuple[Steering | None, ...], bool, tuple[int, ...] | None]
"""Steerings, whether one holds for all sequences, and prompt lengths."""


def _same(a: Wish, b: Wish) -> bool:
    """Whether two wishes are the same, steerings by identity: to compare their rules would cost more."""
    return a[1:] == b[1:] and len(a[0]) == len(b[0]) and all(x is y for x, y in zip(a[0], b[0], strict=True))


class LiveModel:
    """Forward passes of one model, each under its own steering. Not thread-safe; close it at the end.

    Args:
        routers: which routers to record; all that text passes if left out.
    """

    def __init__(self, model: Any, routers: Sequence[RouterSpec] | None = None) -> None:
        self.model = model
        found = routers_to_trace(model) if routers is None else None
        self.routers = list(routers or ()) if found is None else traced_routers(found)
        self._routed: dict[RouterKey, Tensor] = {}
        self._in_force: Wish | None = None
        self._stack = ExitStack()
        self._stack.enter_context(attach(model, self, routers=self.routers))
        self._applied = self._stack.enter_context(PerSequence([]).applied(model, routers=found))

    @property
    def device(self) -> torch.device:
        return input_device(self.model)

    @property
    def keys(self) -> list[RouterKey]:
        return [spec.key for spec in self.routers]

    def routed(self, spec: RouterSpec, expert_ids_TK: Tensor, weights_TK: Any, logits_TE: Any) -> None:
        """Called by the hooks on every router."""
        self._routed[spec.key] = expert_ids_TK

    @torch.inference_mode()
    def forward(
        self,
        steerings: Sequence[Steering | None],
        *,
        same: bool = False,
        prompt_lengths: Sequence[int] | None = None,
        **inputs: Any,
    ) -> tuple[Any, dict[RouterKey, Tensor]]:
        """One forward pass.

        Args:
            steerings: one for each sequence of the batch; or with `same` a single one for all of them.
            prompt_lengths: tokens of each sequence that count as prompt, for rules with that span; what is
                fed while the cache is empty, if left out.
            inputs: what the model is called with.
        Returns:
            The model's output, and the expert ids (B * S, K) by router, as they were executed.
        """
        self._routed = {}
        self._wish(tuple(steerings), same, prompt_lengths)
        return self.model(**inputs), self._routed

    def _wish(
        self, steerings: tuple[Steering | None, ...], same: bool, prompt_lengths: Sequence[int] | None
    ) -> None:
        """Put these steerings in force, unless they are."""
        if not any(steerings):
            self.rest()
            return
        wish = (steerings, same, None if prompt_lengths is None else tuple(prompt_lengths))
        if self._in_force is None or not _same(self._in_force, wish):
            self.rest()
            self._applied.assign(steerings, everywhere=same, prompt_lengths=prompt_lengths)
            self._in_force = wish

    def rest(self) -> None:
        """Let no steering be in force."""
        self._in_force = None
        self._applied.close()

    def close(self) -> None:
        """Take all hooks away; may be called more than once."""
        self._stack.close()

    def __enter__(self) -> LiveModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

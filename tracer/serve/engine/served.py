"""A loaded model as the requests see it: its tokenizer behind a lock, its routers, its card."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from ....store.schema import RouterSpec
from ...generate.live_model import LiveModel
from ...generate.rounding import rounding_floor
from ...models.forward import stop_token_ids
from ...tokens.chat import render
from ...tokens.token_text import TokenTexts
from ..errors import ApiError
from ..limits import Limits


@dataclass(eq=False)
class Served:
    """What the engine's worker holds, and what requests are checked against."""

    model: Any
    tokenizer: Any
    card: dict[str, Any]
    routers: list[RouterSpec]
    live: LiveModel
    """Used in the engine's worker thread only."""
    end_ids: frozenset[int]
    """Tokens that end a text."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Around the tokenizer: the fast ones refuse to be used by two threads at once."""
    _floor: float | None = None

    @classmethod
    def of(cls, model: Any, tokenizer: Any, card: dict[str, Any] | None = None) -> Served:
        """Raises the tracer's errors where the model has no routers that it knows."""
        live = LiveModel(model.eval())
        return cls(model, tokenizer, dict(card or {}), live.routers, live, frozenset(stop_token_ids(model)))

    def kl_floor(self, ids: Sequence[int]) -> float | None:
        """The largest KL that rounding makes of equal texts on this machine, measured once, on the first text asked
        for; None for an encoder-decoder model. Runs the model: for the engine's worker only."""
        if self._floor is None and not self.model.config.is_encoder_decoder:
            self._floor = rounding_floor(self.live, ids)
        return self._floor

    def rest(self) -> None:
        """Let no steering be in force."""
        self.live.rest()

    def close(self) -> None:
        """Leave the model as it was loaded."""
        self.live.close()

    @property
    def context(self) -> int | None:
        """Most positions the model was made for, where its configuration says."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None)

    def describe(self, limits: Limits) -> dict[str, Any]:
        """The answer of /v1/model."""
        return {
            "model": self.card,
            "routers": [spec.to_json() for spec in self.routers],
            "device": str(self.live.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "context": self.context,
            "chat_template": bool(getattr(self.tokenizer, "chat_template", None)),
            "limits": asdict(limits),
        }

    def encode(self, value: Any, kind: str, limits: Limits) -> list[int]:
        """Token ids of a text, or of a conversation under the model's chat template.

        Args:
            kind: "messages" for a conversation; the name of a text field otherwise.
        Raises:
            ApiError: 400 no template, or no tokens; 413 more tokens than a prompt may have.
        """
        with self.lock:
            ids = self._chat_ids(value) if kind == "messages" else self.tokenizer(value)["input_ids"]
        ids = [int(token) for token in ids]
        if not ids:
            raise ApiError(400, f"{kind}: gives no tokens", field=kind)
        most = min(limits.prompt_tokens, self.context or limits.prompt_tokens)
        if len(ids) > most:
            raise ApiError(413, f"{kind}: has {len(ids)} tokens; at most {most} are allowed", field=kind)
        return ids

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Each token by itself, as a trace holds it: end to end they are the text, also where a token is a part of a
        character."""
        with self.lock:
            return [self._texts.text(token) for token in ids]

    @cached_property
    def _texts(self) -> TokenTexts:
        return TokenTexts(self.tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of several tokens, special ones left out."""
        with self.lock:
            return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _chat_ids(self, messages: list[dict[str, str]]) -> list[int]:
        if not getattr(self.tokenizer, "chat_template", None):
            raise ApiError(400, "messages: this model has no chat template; send a prompt", field="messages")
        try:
            text, _ = render(self.tokenizer, messages)
        except ValueError as error:
            raise ApiError(400, f"messages: {error}", field="messages") from None
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

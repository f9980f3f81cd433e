"""Generates text, greedily or sampled, alone or while something records or steers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..models.forward import stop_token_ids
from ..prompts.prompt_set import PromptSet
from ..tokens.batches import collate
from ..tokens.encode import Encoder
from .batch import Sampling, generate_batch, pad_token_id, trimmed
from .rewiring import Rewiring, rewired


@dataclass(frozen=True)
class Generation:
    """One answer."""

    prompt: str
    text: str
    token_ids: list[int]
    finished: bool
    """Whether the model ended it, and not the limit."""


def generate(
    model: Any,
    tokenizer: Any,
    prompt: str | Sequence[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool = False,
    steering: Any = None,
    rewire: Rewiring | None = None,
) -> list[Generation]:
    """Continues one or several prompts, in one batch; one after another where they are rewired.

    Args:
        steering: a `Steering` that is applied while it runs, and taken away afterwards.
        rewire: learn logit vectors on each prompt and, now and then, on its answer (`rewiring`).
    """
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    encoded, pad_id = (
        Encoder(tokenizer, chat=chat).prompts(list(PromptSet.from_rows(texts))),
        pad_token_id(tokenizer),
    )
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    new_BN: Iterable[Tensor]
    if rewire is not None:
        alone = (collate([one], pad_id=pad_id, side="left") for one in encoded)
        new_BN = [rewired(model, tokenizer, batch, sampling, rewire, steering)[0] for batch in alone]
    else:
        batch = collate(encoded, pad_id=pad_id, side="left")
        with steering.applied(model) if steering is not None else nullcontext():
            new_BN = generate_batch(model, tokenizer, batch, sampling)
    return [
        _answer(tokenizer, text, row, stop_token_ids(model)) for text, row in zip(texts, new_BN, strict=True)
    ]


def _answer(tokenizer: Any, prompt: str, row_N: Tensor, stop_ids: list[int]) -> Generation:
    ids = trimmed(row_N, stop_ids)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Generation(prompt, text, ids, bool(ids) and ids[-1] in stop_ids)

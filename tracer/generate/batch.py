"""Generates text, greedily or sampled, alone or while something records or steers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from ..prompts.prompt_set import PromptSet
from ..tokens.batches import Batch, collate
from ..tokens.encode import Encoder

if TYPE_CHECKING:
    from .rewiring import Rewiring


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen."""

    max_new_tokens: int
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `generate`, with everything set that a checkpoint's own defaults could
        change."""
        fixed = {
            "max_new_tokens": self.max_new_tokens,
            "num_beams": 1,
            "repetition_penalty": 1.0,
            "min_length": 0,
        }
        if self.temperature == 0:
            return {**fixed, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return {
            **fixed, "do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0
        }  # fmt: skip


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
        from .rewiring import rewired

        alone = (collate([one], pad_id=pad_id, side="left") for one in encoded)
        new_BN = [rewired(model, tokenizer, batch, sampling, rewire, steering)[0] for batch in alone]
    else:
        batch = collate(encoded, pad_id=pad_id, side="left")
        with steering.applied(model) if steering is not None else nullcontext():
            new_BN = generate_batch(model, tokenizer, batch, sampling)
    return [
        _answer(tokenizer, text, row, stop_token_ids(model)) for text, row in zip(texts, new_BN, strict=True)
    ]


@torch.inference_mode()
def generate_batch(
    model: Any,
    tokenizer: Any,
    batch: Batch,
    sampling: Sampling,
    *,
    each_step: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """New tokens of each sequence of a left-padded batch, (B, N) on the CPU, padded after a sequence's end.

    Args:
        each_step: called after every forward pass with all tokens so far (B, S + step), still on the device.
    """
    device = model.get_input_embeddings().weight.device
    options = sampling.options()
    if each_step is not None:
        options["logits_processor"] = LogitsProcessorList([_EachStep(each_step)])
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(sampling.seed)
        output_BS = model.generate(
            input_ids=batch.input_ids_BS.to(device),
            attention_mask=batch.mask_BS.to(device),
            pad_token_id=pad_token_id(tokenizer),
            disable_compile=True,
            **options,
        )
    return output_BS[:, batch.input_ids_BS.shape[1] :].cpu()


class _EachStep(LogitsProcessor):
    """`generate` calls its logits processors after every forward pass, with the tokens so far."""

    def __init__(self, tell: Callable[[Tensor], None]) -> None:
        self._tell = tell

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._tell(input_ids)
        return scores


def trimmed(row_N: Tensor, stop_ids: Sequence[int]) -> list[int]:
    """Tokens up to and with the first one that ends the sequence."""
    ids = row_N.tolist()
    ends = [place for place, token in enumerate(ids) if token in stop_ids]
    return ids[: ends[0] + 1] if ends else ids


def stop_token_ids(model: Any) -> list[int]:
    """Ids that end a generated sequence."""
    stop = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return [] if stop is None else [stop] if isinstance(stop, int) else list(stop)


def pad_token_id(tokenizer: Any) -> int:
    """An id to pad with: it never reaches the model's attention, nor a trace."""
    found = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id", "bos_token_id"))
    return next((token_id for token_id in found if token_id is not None), 0)


def _answer(tokenizer: Any, prompt: str, row_N: Tensor, stop_ids: list[int]) -> Generation:
    ids = trimmed(row_N, stop_ids)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Generation(prompt, text, ids, bool(ids) and ids[-1] in stop_ids)

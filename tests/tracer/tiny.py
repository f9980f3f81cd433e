"""Small things that the tracer's tests share: a tokenizer of single characters, models, and a plain
witness."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast
from zoo import build, discover

NINE = (
    "olmoe",
    "qwen2_moe",
    "qwen3_moe",
    "mixtral",
    "deepseek_v2",
    "deepseek_v3",
    "gpt_oss",
    "granitemoe",
    "phimoe",
)
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}\n{% endfor %}<|assistant|>"


def character_tokenizer(*, start: bool = True, chat: bool = False) -> PreTrainedTokenizerFast:
    """One token for each printable ASCII character; `<s>` before a text where `start`."""
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: number for number, token in enumerate([*SPECIALS, *characters])}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    if start:
        inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = CHAT if chat else None
    return tokenizer


@cache
def family(name: str) -> torch.nn.Module:
    """A tiny model of a family, float32, random weights."""
    return build(next(family for family in discover() if family.name == name))


def tiny_olmoe(seed: int = 0, **sizes: Any) -> OlmoeForCausalLM:
    """An OLMoE of 3 layers, 8 experts, 2 chosen."""
    values: dict[str, Any] = {
        "vocab_size": 128, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 4, "num_experts": 8, "num_experts_per_tok": 2,
        "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    } | sizes  # fmt: skip
    torch.manual_seed(seed)
    return OlmoeForCausalLM(OlmoeConfig(initializer_range=0.2, **values)).eval()


Decision = tuple[torch.Tensor, torch.Tensor]


def executed(model: torch.nn.Module, paths: list[str], run) -> dict[str, list[Decision]]:
    """What each experts module received while `run()` ran: ids and weights by descending weight, call by
    call.

    Knows nothing of moescope: a plain hook that takes the last two arguments.
    """
    seen: dict[str, list[Decision]] = {path: [] for path in paths}

    def watch(path):
        def hook(module, args, kwargs):
            ids, weights = [*args, *kwargs.values()][-2:]
            weights, order = weights.reshape(-1, weights.shape[-1]).sort(dim=-1, descending=True, stable=True)
            seen[path].append((ids.reshape(weights.shape).gather(-1, order), weights))

        return hook

    modules = dict(model.named_modules())
    handles = [modules[path].register_forward_pre_hook(watch(path), with_kwargs=True) for path in paths]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return seen

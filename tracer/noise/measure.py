"""Measures the noise floor of a model's routing on some prompts.

Each prompt alone, with the threads, attention and precision of the moment, is the base. Against it runs the same once
more, and with one thing changed at a time: prompts in padded batches, another number of threads, another attention
implementation, another precision. What can't be varied here is noted.
"""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...store.noise import Noise, Variation
from ..generate.batch import pad_token_id
from ..models.forward import evaluating, max_length
from ..models.input_device import input_device
from ..prompts.prompt_set import PromptSet
from ..tokens.batches import plan_batches
from ..tokens.encode import Encoder
from .runs import Decisions, compared, decisions

ALONE = "1 prompt a batch"
ROOM = 1.3
"""A second copy of the model is made only where this many times its size is free."""


def measure_noise(
    model: Any,
    tokenizer: Any,
    prompts: PromptSet,
    *,
    chat: bool = False,
    batch_tokens: int = 8192,
    reload: Callable[[str], Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Noise:
    """The noise floor of a model on these prompts.

    Args:
        batch_tokens: padded tokens of the batches that the base, each prompt alone, is compared with.
        reload: gives the same model in another precision (`float32`, `bfloat16`); none: precision is not varied.
        progress: told what runs next.
    Raises:
        TracerError: no routers, or a prompt that can't be encoded.
    """
    encoder = Encoder(tokenizer, chat=chat, max_length=max_length(model))
    encoded, pad_id = encoder.prompts(list(prompts)), pad_token_id(tokenizer)
    alone = [[i] for i in range(len(encoded))]
    tell = progress or (lambda what: None)
    attention, dtype = _attention(model), str(model.dtype).removeprefix("torch.")
    device, threads = input_device(model), torch.get_num_threads()
    found: list[Variation] = []
    notes: list[str] = []

    def run(which: Any = model, plan: Any = alone) -> list[Decisions]:
        with evaluating(which):
            return decisions(which, encoded, plan, pad_id=pad_id)

    tell("each prompt alone")
    base = run()
    tell("the same again")
    found.append(compared("repeat", ALONE, "the same again", base, run()))
    plan = plan_batches(np.array([len(one) for one in encoded]), batch_tokens)
    if len(plan) < len(encoded):
        tell("padded batches")
        words = f"batches of up to {batch_tokens:,} padded tokens"
        found.append(compared("batch", ALONE, words, base, run(plan=[list(map(int, one)) for one in plan])))
    else:
        notes.append("batch: no two of these prompts share a batch")
    if device.type == "cpu" and (other := _other_threads(threads)):
        tell("another number of threads")
        with _threads(other, threads):
            found.append(compared("threads", f"threads: {threads}", f"threads: {other}", base, run()))
    else:
        notes.append(
            f"threads: not varied ({'one core' if device.type == 'cpu' else f'it runs on {device.type}'})"
        )
    if other := _other_attention(model, attention):
        tell(f"{other} attention")
        with _attending(model, other, attention):
            found.append(compared("attention", f"{attention} attention", f"{other} attention", base, run()))
    else:
        notes.append("attention: this model has only one implementation here")
    other, why = _other_dtype(model, dtype, device, reload)
    if why:
        notes.append(f"dtype: {why}")
    elif reload is not None:
        tell(other)
        copy = reload(other)
        found.append(compared("dtype", dtype, other, base, run(copy)))
        del copy
        gc.collect()
    made = {"processor": _processor(device), "threads": threads, "attention": attention}
    made |= {name: version(name) for name in ("torch", "transformers")}
    tokens = sum(map(len, encoded))
    return Noise(
        dtype=dtype, device=str(device), prompts=len(encoded), tokens=tokens, variations=tuple(found),
        notes=tuple(notes), made=made,
    )  # fmt: skip


def _other_threads(threads: int) -> int | None:
    if threads > 1:
        return 1
    return 2 if (os.cpu_count() or 1) > 1 else None


@contextmanager
def _threads(wanted: int, before: int) -> Iterator[None]:
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _attention(model: Any) -> str | None:
    return getattr(getattr(model, "config", None), "_attn_implementation", None)


def _other_attention(model: Any, attention: str | None) -> str | None:
    """One that can be set on this model and works; None where there is none."""
    if attention is None or not hasattr(model, "set_attn_implementation"):
        return None
    other = "sdpa" if attention == "eager" else "eager"
    try:
        model.set_attn_implementation(other)
        return other
    except (ValueError, ImportError):
        return None
    finally:
        model.set_attn_implementation(attention)


@contextmanager
def _attending(model: Any, wanted: str, before: str | None) -> Iterator[None]:
    model.set_attn_implementation(wanted)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _other_dtype(model: Any, dtype: str, device: torch.device, reload: Any) -> tuple[str, str]:
    """Another precision, and why it can't be tried; the reason is empty where it can."""
    other = "bfloat16" if dtype == "float32" else "float32"
    if reload is None:
        return other, "not varied"
    if getattr(model, "hf_quantizer", None) is not None:
        return other, "a quantised model is not loaded in another precision"
    size = ROOM * sum(p.numel() for p in model.parameters()) * getattr(torch, other).itemsize
    if size > _free_bytes(device):
        return other, f"a second copy in {other} needs {size / 2**30:.1f} GiB, and less is free"
    return other, ""


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return float("inf")


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        name = ""
    return f"{name or platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"

"""Traces a prompt set: batches in, committed parts out.

1. Every prompt is tokenised once for its length; what does not fit the model is refused before anything runs.
2. Prompts of similar length form batches of at most `batch_tokens` padded tokens.
3. While a batch runs, its routing goes into an arena on the device; while the next one runs, a thread
   takes it to the host and commits parts of whole prompts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from ..store.schema import DEFAULT_CAPTURE, RouterSpec
from ..store.writer import TraceWriter
from .batches import plan_batches
from .card import active_parameters, model_card
from .encode import Encoded, Encoder
from .errors import TracerError
from .generate import Sampling, stop_token_ids
from .outputs import OUTPUTS, OutputWatch
from .prompts import PromptSet
from .record import attach
from .routers import find_sites
from .run_batch import BatchRunner
from .run_capture import EXTRAS, Capture
from .run_parts import PartCollector
from .run_progress import Meter, Progress, TraceSummary, summary_of
from .run_writer import PART_EVENTS, PartWriter
from .token_text import TokenTexts

WEIGHT_TYPES = ("float16", "float32")
TOKENS_AHEAD = 200_000
"""Tokens that are kept between measuring their prompts and running them; later ones are tokenised again."""
_LENGTHS_AT_ONCE = 512
PROBE_TOKENS = 32
"""Tokens on which it is found out how experts add to the residual stream."""


def trace_prompts(
    model: Any,
    tokenizer: Any,
    prompts: PromptSet,
    out: str | os.PathLike[str],
    *,
    capture: Sequence[str] = DEFAULT_CAPTURE,
    batch_tokens: int = 8192,
    batch_size: int | None = None,
    max_new_tokens: int = 0,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool = False,
    steering: Any = None,
    resume: bool = False,
    limit: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    routers: Sequence[RouterSpec] | None = None,
    weight_type: str = "float16",
    card: dict[str, Any] | None = None,
    part_events: int = PART_EVENTS,
) -> TraceSummary:
    """Runs a model over a prompt set and writes a trace.

    Args:
        prompts: a `PromptSet`; prompts that `out` already holds are skipped when resuming.
        out: folder or URL of the trace.
        capture: what to keep of an event, of `store.schema.CAPTURES`.
        batch_tokens: padded tokens in a batch; halved where the memory does not suffice.
        batch_size: prompts in a batch at most.
        max_new_tokens: tokens to generate after each prompt, recorded as phase `decode`.
        temperature, top_p, seed: how they are chosen; 0 takes the likeliest.
        chat: apply the tokenizer's chat template; its tokens are marked `special`.
        steering: a `Steering`; what is recorded is what was executed under it.
        limit: only the first prompts.
        progress: told after every batch.
        routers: only these, or declarations of one's own; all that `find_routers` finds if left out.
        weight_type: gate weights are stored as `float16` or `float32`.
        card: what the manifest says of the model; `model_card(model)` if left out.
    Raises:
        TracerError: a model or prompt that can't be traced, a capture that does not hold, or no memory for
            even one
            prompt. What is committed stays, and `resume=True` goes on.
        StoreError: the trace can't be written, or can't be resumed with these settings.
    """
    _check(capture, batch_tokens, weight_type)
    chosen = prompts.limit(limit)
    specs = traced_routers(model, routers)
    encoder = Encoder(tokenizer, chat=chat, max_length=max_length(model))
    lengths, ahead = encode_ahead(encoder, chosen)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    card = dict(card or model_card(model))
    card["active_parameters"] = active_parameters(model, specs)
    settings: dict[str, Any] = {"chat": chat, "batch_tokens": batch_tokens, "limit": limit}
    settings |= sampling.to_json() if max_new_tokens else {"max_new_tokens": 0}
    sink = Capture(
        specs,
        capture,
        weight_type=weight_type,
        special_ids=encoder.special_ids,
        stop_ids=stop_token_ids(model) if max_new_tokens else (),
    )
    outputs = _output_watch(model, sink, ahead[0], capture, routers)
    writer = TraceWriter(
        out,
        routers=specs,
        model=card,
        prompt_set=describe(prompts),
        settings=settings,
        capture=capture,
        resume=resume,
        steering=None if steering is None else steering.to_json(),
        weight_type=weight_type,
    )
    runner = BatchRunner(
        model,
        tokenizer,
        encoder,
        sink,
        sampling,
        batch_tokens=batch_tokens,
        routers=routers,
        steered=steering is not None,
        ahead=ahead,
    )
    plan = plan_batches(lengths, batch_tokens, batch_size=batch_size, extra=max_new_tokens)
    with writer, _evaluating(model):
        done = writer.committed_prompts
        todo = [left for batch in plan if len(left := _without(batch, chosen, done))]
        meter = Meter(todo, lengths, progress)
        collector = PartCollector(specs, TokenTexts(tokenizer))
        with (
            attach(model, outputs or sink, routers=routers, steering=steering),
            outputs.attached() if outputs is not None else nullcontext(),
            PartWriter(writer, collector, part_events=part_events) as parts,
        ):
            for batch in todo:
                for captured, results in runner.run([(int(i), chosen[int(i)]) for i in batch]):
                    parts.add(captured, results)
                    meter.count([result.number for result in results])
        summary = summary_of(
            writer.url, parts.committed, len(done), len(specs), runner.accuracy, meter.seconds
        )
        writer.finish(**summary.to_json())
    return summary


def traced_routers(model: Any, routers: Sequence[RouterSpec] | None) -> list[RouterSpec]:
    """The routers that text passes: those of other inputs (images, sound) decide nothing here.

    Raises:
        TracerError: no routers, or an encoder-decoder model, whose two sequences a trace has no place for.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise TracerError(
            f"{type(model).__name__} reads with an encoder and writes with a decoder, a trace holds one "
            "sequence a prompt: use record_routing, which records both"
        )
    specs = [site.spec for site in find_sites(model, routers)]
    return [spec for spec in specs if spec.stream not in ("vision", "audio")]


def max_length(model: Any) -> int | None:
    """Longest sequence that the model takes, as far as its configuration says."""
    config = getattr(model, "config", None)
    return getattr(config.get_text_config(), "max_position_embeddings", None) if config is not None else None


def encode_ahead(encoder: Encoder, prompts: PromptSet) -> tuple[np.ndarray, dict[int, Encoded]]:
    """Tokens of each prompt, (P,) int64, and the first sequences by prompt number, as many as memory allows.

    Raises:
        EncodingError: a prompt that can't be traced.
    """
    lengths = np.empty(len(prompts), np.int64)
    ahead: dict[int, Encoded] = {}
    kept = 0
    for start in range(0, len(prompts), _LENGTHS_AT_ONCE):
        some = prompts.prompts[start : start + _LENGTHS_AT_ONCE]
        encoded = encoder.prompts(some)
        lengths[start : start + len(some)] = [len(sequence) for sequence in encoded]
        if kept < TOKENS_AHEAD:
            ahead |= dict(enumerate(encoded, start))
            kept += int(lengths[start : start + len(some)].sum())
    return lengths, ahead


def describe(prompts: PromptSet) -> dict[str, Any]:
    """What a manifest says of a prompt set."""
    return {
        "name": prompts.name,
        "fingerprint": prompts.fingerprint,
        "prompts": len(prompts),
        "languages": prompts.languages,
        "tags": prompts.tag_names,
    }


def _check(capture: Sequence[str], batch_tokens: int, weight_type: str) -> None:
    unknown = sorted(set(capture) - {"ids", "weights", *EXTRAS})
    if unknown:
        raise TracerError(f"cannot capture {unknown[0]!r} (known: ids, weights, {', '.join(EXTRAS)})")
    if batch_tokens < 1:
        raise TracerError(f"a batch needs at least one token, not {batch_tokens}")
    if weight_type not in WEIGHT_TYPES:
        raise TracerError(f"weights are stored as {' or '.join(WEIGHT_TYPES)}, not {weight_type!r}")


def _without(batch: np.ndarray, prompts: PromptSet, done: set[str]) -> np.ndarray:
    return batch if not done else np.asarray([i for i in batch if prompts[int(i)].id not in done], np.int64)


def _output_watch(
    model: Any, sink: Capture, first: Encoded, capture: Sequence[str], routers: Sequence[RouterSpec] | None
) -> OutputWatch | None:
    """What watches the experts' outputs, tried on the first tokens of a prompt; None where none is wanted."""
    wanted = [name for name in OUTPUTS if name in capture]
    if not wanted:
        return None
    ids_1T = torch.from_numpy(first.ids[:PROBE_TOKENS]).long().unsqueeze(0)
    ids_1T = ids_1T.to(model.get_input_embeddings().weight.device)
    inputs = {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)}
    with _evaluating(model):
        return OutputWatch(model, sink, inputs, capture=wanted, routers=routers)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Routers that add noise while training must not here."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)

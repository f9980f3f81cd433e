"""Traces a prompt set: batches in, committed parts out.

1. Every prompt is tokenised once for its length; what does not fit the model is refused before anything runs.
2. Prompts of similar length form batches of at most `batch_tokens` padded tokens.
3. The first batch is checked against what is executed. Of the others, where only routing is wanted, a forward pass
   ends with the last router's decision: what follows changes nothing that is recorded.
4. While a batch runs, its routing goes into an arena on the device; while the next one runs, a thread
   takes it to the host and commits parts of whole prompts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from ...store.schema import DEFAULT_CAPTURE, RouterSpec
from ...store.write.writer import TraceWriter
from ..generate.batch import Sampling, stop_token_ids
from ..hooks.record import attach
from ..models.card import active_parameters, model_card
from ..models.forward import evaluating, max_length
from ..prompts.prompt_set import PromptSet
from ..routers.declare import declared_texts
from ..routers.find import routers_to_trace, traced_routers
from ..tokens.batches import plan_batches, shuffled
from ..tokens.encode import Encoder
from ..tokens.token_text import TokenTexts
from .batch_runner import BatchRunner
from .begin import check_settings, describe, encode_ahead, output_watch
from .capture import Capture
from .part_writer import PART_EVENTS, PartWriter
from .parts import PartCollector
from .progress import Meter, Progress, TraceSummary, summary_of


def trace_prompts(
    model: Any,
    tokenizer: Any,
    prompts: PromptSet | str | os.PathLike[str] | Iterable[Mapping[str, Any] | str],
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
    noise: dict[str, Any] | None = None,
    part_events: int = PART_EVENTS,
) -> TraceSummary:
    """Runs a model over a prompt set and writes a trace.

    Args:
        prompts: a `PromptSet`, a file of one, or its rows; prompts that `out` already holds are skipped when resuming.
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
        noise: a noise floor to keep in the manifest (`measure_noise(...).to_json()`).
    Raises:
        TracerError: a model or prompt that can't be traced, a capture that does not hold, or no memory for even
            one prompt. What is committed stays, and `resume=True` goes on.
        StoreError: the trace can't be written, or can't be resumed with these settings.
    """
    check_settings(capture, batch_tokens, weight_type)
    prompts = PromptSet.of(prompts)
    chosen = prompts.limit(limit)
    found = routers_to_trace(model, routers)
    specs = traced_routers(found)
    encoder = Encoder(tokenizer, chat=chat, max_length=max_length(model))
    lengths, ahead = encode_ahead(encoder, chosen)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    card = dict(card or model_card(model))
    card["active_parameters"] = active_parameters(model, specs)
    settings: dict[str, Any] = {"chat": chat, "batch_tokens": batch_tokens, "limit": limit}
    settings["batch_order"] = "shuffled"
    if declared := declared_texts(model):
        settings["declared"] = declared
    settings |= {"batch_size": batch_size} if batch_size is not None else {}
    if attention := getattr(getattr(model, "config", None), "_attn_implementation", None):
        settings["attention"] = attention
    settings |= sampling.to_json() if max_new_tokens else {"max_new_tokens": 0}
    sink = Capture(
        specs,
        capture,
        weight_type=weight_type,
        special_ids=encoder.special_ids,
        stop_ids=stop_token_ids(model) if max_new_tokens else (),
    )
    outputs = output_watch(model, sink, ahead[0], capture, found)
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
        noise=noise,
    )
    runner = BatchRunner(
        model,
        tokenizer,
        encoder,
        sink,
        sampling,
        batch_tokens=batch_tokens,
        routers=found,
        steered=steering is not None,
        ahead=ahead,
    )
    plan = shuffled(plan_batches(lengths, batch_tokens, batch_size=batch_size, extra=max_new_tokens))
    with writer, evaluating(model):
        done = writer.committed_prompts
        todo = [left for batch in plan if len(left := _without(batch, chosen, done))]
        meter = Meter(todo, lengths, progress)
        collector = PartCollector(specs, TokenTexts(tokenizer))
        with (
            steering.applied(model, routers=found) if steering is not None else nullcontext() as applied,
            attach(model, outputs or sink, routers=found),
            outputs.attached() if outputs is not None else nullcontext(),
            PartWriter(writer, collector, part_events=part_events) as parts,
        ):
            runner.steering = applied
            for batch in todo:
                for captured, results in runner.run([(int(i), chosen[int(i)]) for i in batch]):
                    parts.add(captured, results)
                    meter.count([result.number for result in results])
        summary = summary_of(
            writer.url, parts.committed, len(done), len(specs), runner.accuracy, meter.seconds
        )
        writer.finish(**summary.to_json())
    return summary


def _without(batch: np.ndarray, prompts: PromptSet, done: set[str]) -> np.ndarray:
    return batch if not done else np.asarray([i for i in batch if prompts[int(i)].id not in done], np.int64)

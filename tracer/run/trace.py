"""Traces a prompt set: batches in, committed parts out.

1. Every prompt is tokenised once for its length; what does not fit the model is refused before anything runs.
2. Prompts of similar length form batches of at most `batch_tokens` padded tokens.
3. The first batch is checked against what is executed. Of the others, where only routing is wanted, a forward pass
   ends with the last router's decision: what follows changes nothing that is recorded.
4. While a batch runs, its routing goes into an arena on the device; while the next one runs, a thread
   takes it to the host and commits parts of whole prompts.

A model that lies over several processes (`models.layout`) is traced by all of them at once: each runs the same batches,
rank 0 writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...store.schema import DEFAULT_CAPTURE, RouterSpec
from ..generate.batch import Sampling
from ..prompts.prompt_set import PromptSet
from .begin import describe
from .estimate import Estimate, Question
from .progress import Meter, Progress, TraceSummary, summary_of
from .recording import Recording
from .writers import open_writer


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
    shard: tuple[int, int] | None = None,
    progress: Callable[[Progress], None] | None = None,
    consider: Callable[[Estimate], bool] | None = None,
    routers: Sequence[RouterSpec] | None = None,
    weight_type: str = "float16",
    card: dict[str, Any] | None = None,
    noise: dict[str, Any] | None = None,
    part_events: int | None = None,
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
        shard: (k, n): of these only every n-th from the k-th on, counted from 1; `store.write.merge` joins the traces.
        progress: told after every batch, and after every generated token.
        consider: asked once, after the first batches of a trace that will take a while, whether it is worth what it
            will cost; while it thinks, nothing runs.
        routers: only these, or declarations of one's own; all that `find_routers` finds if left out.
        weight_type: gate weights are stored as `float16` or `float32`.
        card: what the manifest says of the model; `model_card(model)` if left out.
        noise: a noise floor to keep in the manifest (`measure_noise(...).to_json()`).
        part_events: events after which a part is closed; `part_writer.part_events_at(out)` if left out.
    Raises:
        TracerError: a model or prompt that can't be traced, a capture that does not hold, or no memory for even
            one prompt. Committed prompts are kept, and `resume=True` continues.
        TraceDeclined: `consider` said no.
        StoreError: the trace can't be written, or can't be resumed with these settings.
    """
    prompts = PromptSet.of(prompts)
    chosen = prompts.chosen(limit, shard)
    recording = Recording(
        model,
        tokenizer,
        chosen,
        capture=capture,
        batch_tokens=batch_tokens,
        batch_size=batch_size,
        sampling=Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed),
        chat=chat,
        steering=steering,
        limit=limit,
        shard=shard,
        routers=routers,
        weight_type=weight_type,
        card=card,
    )
    lengths = recording.lengths()
    recording.probe()
    writer = open_writer(
        recording.layout,
        out,
        prompt_set=describe(prompts),
        resume=resume,
        noise=noise,
        **recording.manifest(),
    )
    with writer:
        done = writer.committed_prompts
        todo = [left for batch in recording.batches(lengths) if len(left := _without(batch, chosen, done))]
        meter = Meter(todo, lengths, progress, max_new_tokens)
        question = None if consider is None else Question(consider, meter, writer.url)
        committed, accuracy = recording.run(
            writer, todo, done=meter.count, step=meter.step if max_new_tokens else None,
            between=None if question is None else question.after_batch, part_events=part_events,
        )  # fmt: skip
        summary = summary_of(
            writer.url, committed, len(done), len(recording.routers), accuracy, meter.seconds
        )
        writer.finish(**summary.to_json())
    return summary


def _without(batch: np.ndarray, prompts: PromptSet, done: set[str]) -> np.ndarray:
    return batch if not done else np.asarray([i for i in batch if prompts[int(i)].id not in done], np.int64)

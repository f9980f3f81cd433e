"""Traces a prompt set inside one vLLM: the recording (`recording.py`) between a writer and a progress bar."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....store.schema import DEFAULT_CAPTURE
from ....store.write.writer import TraceWriter
from ...generate.batch import Sampling
from ...prompts.prompt_set import PromptSet
from ...run.begin import describe, encode_ahead
from ...run.part_writer import part_events_at
from ...run.progress import Meter, Progress, TraceSummary
from ...steering.profile import Steering
from .recording import VllmRecording, check_wanted
from .running import ONE_DEVICE, Parallel


@dataclass(frozen=True, kw_only=True)
class VllmSummary(TraceSummary):
    """What a run inside vLLM has done."""

    recomputed: int
    """Positions that were computed more than once (preemption, rejected drafts); the last computation is kept."""
    steps: int
    """Forward passes of the first worker."""
    steps_checked: int
    """Those whose decisions were compared with what the experts' kernel received."""


def trace_with_vllm(
    model: str,
    prompts: PromptSet | str | os.PathLike[str] | Iterable[Mapping[str, Any] | str],
    out: str | os.PathLike[str],
    *,
    parallel: Parallel = ONE_DEVICE,
    arguments: Mapping[str, Any] | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    capture: Sequence[str] = DEFAULT_CAPTURE,
    max_new_tokens: int = 0,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool = False,
    steering: Steering | None = None,
    resume: bool = False,
    limit: int | None = None,
    shard: tuple[int, int] | None = None,
    progress: Callable[[Progress], None] | None = None,
    weight_type: str = "float16",
    part_events: int | None = None,
) -> VllmSummary:
    """Runs a model in vLLM over a prompt set and writes a trace.

    Args:
        model: a folder or hub name, as vLLM takes it.
        parallel: devices that share the model's tensors, and copies of its attention layers.
        arguments: further settings of vLLM, by the names of its `AsyncEngineArgs`.
        The others are those of `run.trace.trace_prompts`.
    Raises:
        EngineError: vLLM is not there, can't start, runs another model than the checkpoint, or ended early. What is
            committed stays, and `resume=True` goes on.
        CaptureError: a position of a prompt was not recorded, or not with its own token.
        SteeringError: a rule that can't be had inside vLLM.
    """
    prompt_set = PromptSet.of(prompts)
    chosen = prompt_set.chosen(limit, shard)
    check_wanted(chosen, capture, weight_type)
    recording = VllmRecording(
        model, chosen, parallel=parallel, arguments=arguments, dtype=dtype, trust_remote_code=trust_remote_code,
        capture=capture, chat=chat, steering=steering, limit=limit, shard=shard, weight_type=weight_type,
        sampling=Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed),
        part_events=part_events_at(out) if part_events is None else part_events,
    )  # fmt: skip
    return asyncio.run(_trace(recording, chosen, prompt_set, out, resume, progress))


async def _trace(
    recording: VllmRecording,
    chosen: PromptSet,
    prompt_set: PromptSet,
    out: str | os.PathLike[str],
    resume: bool,
    progress: Callable[[Progress], None] | None,
) -> VllmSummary:
    try:
        await recording.open()
        lengths, recording.ahead = encode_ahead(recording.encoder, chosen)
        with TraceWriter(
            out, prompt_set=describe(prompt_set), resume=resume, **recording.manifest()
        ) as writer:
            done = writer.committed_prompts
            todo = [number for number, prompt in enumerate(chosen) if prompt.id not in done]
            meter = Meter([np.asarray(todo, np.int64)], lengths, progress)
            lots = iter([todo])

            async def more() -> Sequence[int] | None:
                return next(lots, None)

            await recording.run(writer, more, lambda ran: meter.count([one.number for one in ran]))
            summary = _summary(recording, writer.url, len(done), meter.seconds)
            writer.finish(**summary.to_json())
        return summary
    finally:
        recording.close()


def _summary(recording: VllmRecording, url: str, resumed: int, seconds: float) -> VllmSummary:
    done, state = recording.committed, recording.engine.state
    return VllmSummary(
        url=url, state="complete", prompts=done.prompts, resumed_prompts=resumed, tokens=done.tokens,
        events=done.events, routers=len(recording.engine.routers), nan_tokens=done.nan_tokens, accuracy=None,
        seconds=round(seconds, 3), tokens_per_second=round(done.tokens / seconds, 1) if seconds > 0 else 0.0,
        recomputed=recording.recomputed, steps=state.get("steps", 0), steps_checked=state.get("checked", 0),
    )  # fmt: skip

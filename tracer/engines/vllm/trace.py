"""Traces a prompt set inside vLLM: requests out, committed parts back.

1. Prompts are tokenised here, as for a plain trace, and sent as token ids; vLLM batches them as it likes.
2. When enough of them are finished, the workers write their rows to files; every position of every prompt must be
   there, with the token that the request had.
3. The files become a part, written by moescope's own writer while vLLM goes on.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....store.schema import DEFAULT_CAPTURE
from ....store.write.writer import TraceWriter
from ...hooks.outputs import OUTPUTS
from ...prompts.prompt_set import PromptSet
from ...run.begin import check_settings, describe, encode_ahead
from ...run.host_batch import PromptResult
from ...run.part_writer import Committed, part_events_at
from ...run.parts import PartCollector
from ...run.progress import Meter, Progress, TraceSummary
from ...steering.profile import Steering
from ...tokens.encode import Encoded, Encoder
from ...tokens.token_text import TokenTexts
from .rows import Finished, batch_of, read_files
from .running import ONE_DEVICE, EngineError, Parallel, VllmEngine, start

WINDOW_BYTES = 1 << 30
"""Router logits that workers may hold of requests that are not yet written."""
PATIENCE = 20.0
"""Seconds after which finished prompts are committed whatever their number."""


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
    check_settings(capture, 1, weight_type)
    if unknown := [name for name in capture if name in OUTPUTS]:
        raise EngineError(f"--capture {unknown[0]}: experts' outputs are not recorded inside vLLM")
    prompt_set = PromptSet.of(prompts)
    with_choices = next((prompt.id for prompt in prompt_set.limit(limit) if prompt.choices), None)
    if with_choices is not None:
        raise EngineError(
            f"prompt {with_choices!r} has choices, which --engine vllm does not score: trace it without"
        )
    run = _Run(
        model, prompt_set, out, parallel, dict(arguments or {}), dtype, trust_remote_code, tuple(capture),
        max_new_tokens, {"temperature": temperature, "top_p": top_p, "seed": seed}, chat, steering, resume, limit,
        shard, progress, weight_type, part_events_at(out) if part_events is None else part_events,
    )  # fmt: skip
    return asyncio.run(run.trace())


@dataclass
class _Run:
    model: str
    prompts: PromptSet
    out: str | os.PathLike[str]
    parallel: Parallel
    arguments: dict[str, Any]
    dtype: str
    trust_remote_code: bool
    capture: tuple[str, ...]
    max_new_tokens: int
    sampling: dict[str, Any]
    chat: bool
    steering: Steering | None
    resume: bool
    limit: int | None
    shard: tuple[int, int] | None
    progress: Callable[[Progress], None] | None
    weight_type: str
    part_events: int
    committed: Committed = field(default_factory=Committed)
    recomputed: int = 0
    _files: int = 0

    async def trace(self) -> VllmSummary:
        engine = start(
            self.model, dtype=self.dtype, parallel=self.parallel, arguments=self.arguments,
            trust_remote_code=self.trust_remote_code, steered=self.steering is not None,
        )  # fmt: skip
        try:
            with tempfile.TemporaryDirectory(prefix="moescope-vllm-") as folder:
                await engine.begin(folder, self.capture)
                await engine.check(self.steering)
                return await self._trace(engine)
        finally:
            engine.close()

    async def _trace(self, engine: VllmEngine) -> VllmSummary:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(self.model, trust_remote_code=self.trust_remote_code)
        chosen = self.prompts.chosen(self.limit, self.shard)
        longest = None if engine.context is None else engine.context - max(1, self.max_new_tokens)
        self.encoder = Encoder(self.tokenizer, chat=self.chat, max_length=longest)
        lengths, self.ahead = encode_ahead(self.encoder, chosen)
        settings: dict[str, Any] = {
            "chat": self.chat,
            "limit": self.limit,
            "max_new_tokens": self.max_new_tokens,
        }
        settings |= self.sampling if self.max_new_tokens else {}
        settings |= {"shard": list(self.shard)} if self.shard is not None else {}
        writer = TraceWriter(
            self.out, routers=engine.routers, model=engine.card(), prompt_set=describe(self.prompts),
            settings=settings, capture=self.capture, resume=self.resume, weight_type=self.weight_type,
            steering=None if self.steering is None else self.steering.to_json(),
        )  # fmt: skip
        with writer:
            done = writer.committed_prompts
            todo = [number for number, prompt in enumerate(chosen) if prompt.id not in done]
            meter = Meter([np.asarray(todo, np.int64)], lengths, self.progress)
            await self._requests(engine, writer, chosen, todo, lengths, meter)
            summary = self._summary(engine, writer.url, len(done), meter.seconds)
            writer.finish(**summary.to_json())
        return summary

    async def _requests(
        self,
        engine: VllmEngine,
        writer: TraceWriter,
        chosen: PromptSet,
        todo: list[int],
        lengths: np.ndarray,
        meter: Meter,
    ) -> None:
        """All prompts through the engine; parts are committed as they fill, and whatever is finished at the end."""
        collector = PartCollector(engine.routers, TokenTexts(self.tokenizer))
        window = max(1, WINDOW_BYTES // (4 * sum(spec.num_experts for spec in engine.routers)))
        finished: list[Finished] = []
        running: dict[asyncio.Task[Finished], int] = {}
        waiting, due = list(reversed(todo)), time.monotonic() + PATIENCE
        try:
            while waiting or running:
                while waiting and (not running or sum(running.values()) < window):
                    number = waiting.pop()
                    task = asyncio.create_task(self._request(engine, chosen, number))
                    running[task] = int(lengths[number]) + self.max_new_tokens
                ready, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ready:
                    del running[task]
                    finished.append(task.result())
                meter.count([one.number for one in finished if one.new])
                finished = [one.counted() for one in finished]
                tokens = sum(len(one.token_ids) for one in finished)
                if (
                    tokens * len(engine.routers) >= self.part_events
                    or tokens >= window
                    or time.monotonic() >= due
                ):
                    await self._commit(engine, writer, collector, finished)
                    finished, due = [], time.monotonic() + PATIENCE
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            if finished:
                await self._commit(engine, writer, collector, finished)

    async def _request(self, engine: VllmEngine, chosen: PromptSet, number: int) -> Finished:
        prompt = chosen[number]
        encoded = self.ahead.pop(number, None) or self.encoder.prompts([prompt])[0]
        try:
            last = await engine.answer(
                encoded.ids.tolist(),
                number=number,
                steering=self.steering,
                max_new_tokens=max(1, self.max_new_tokens),
                **self.sampling,
            )
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise EngineError(
                f"vLLM ended at prompt {prompt.id!r}: {' '.join(str(error).split())[:300] or type(error).__name__}; "
                "what is committed stays, --resume goes on"
            ) from error
        return self._finished(number, prompt, encoded, last.outputs[0])

    def _finished(self, number: int, prompt: Any, encoded: Encoded, answer: Any) -> Finished:
        new = list(answer.token_ids) if self.max_new_tokens else []
        fed = new[:-1]  # the last one was never fed
        stopped = new if answer.finish_reason != "stop" else new[:-1]
        text = self.tokenizer.decode(stopped, skip_special_tokens=True) if self.max_new_tokens else None
        special = np.isin(fed, self.encoder.special_ids)
        return Finished(
            PromptResult(prompt, number, generated=text),
            np.r_[encoded.ids, np.asarray(fed, np.int64)].astype(np.int64),
            np.r_[encoded.special, special].astype(bool),
            np.r_[encoded.completion, np.zeros(len(fed), bool)].astype(bool),
            len(encoded.ids),
        )

    async def _commit(
        self, engine: VllmEngine, writer: TraceWriter, collector: PartCollector, finished: list[Finished]
    ) -> None:
        classes = {str(one.number): one.classes.tolist() for one in finished}
        files = await engine.files(self._files, classes)
        self._files += 1
        await asyncio.to_thread(self._write, engine, writer, collector, finished, files)

    def _write(
        self,
        engine: VllmEngine,
        writer: TraceWriter,
        collector: PartCollector,
        finished: list[Finished],
        files: list[str],
    ) -> None:
        rows = read_files(files)
        self.recomputed += rows.recomputed
        collector.add(batch_of(engine.routers, finished, rows, self.weight_type))
        part = collector.part()
        writer.write(part)
        for path in files:
            os.remove(path)
        self.committed.prompts += part.prompts.num_rows
        self.committed.tokens += part.tokens.num_rows
        self.committed.events += sum(len(events.position) for events in part.events)
        self.committed.nan_tokens += sum(int(sums.nan_tokens.sum()) for sums in part.sums)

    def _summary(self, engine: VllmEngine, url: str, resumed: int, seconds: float) -> VllmSummary:
        done = self.committed
        return VllmSummary(
            url=url, state="complete", prompts=done.prompts, resumed_prompts=resumed, tokens=done.tokens,
            events=done.events, routers=len(engine.routers), nan_tokens=done.nan_tokens, accuracy=None,
            seconds=round(seconds, 3), tokens_per_second=round(done.tokens / seconds, 1) if seconds > 0 else 0.0,
            recomputed=self.recomputed, steps=engine.state.get("steps", 0),
            steps_checked=engine.state.get("checked", 0),
        )  # fmt: skip

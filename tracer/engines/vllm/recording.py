"""A model in vLLM, made ready to record prompts: requests out, committed parts back.

1. Prompts are tokenised here, as for a plain trace, and sent as token ids; vLLM batches them as it likes.
2. When enough of them are finished, the workers write their rows to files; every position of every prompt must be
   there, with the token that the request had.
3. The files become a part, written by moescope's own writer while vLLM goes on.

One recording serves one run over all prompts as well as lot after lot of them.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...generate.batch import Sampling
from ...hooks.outputs import OUTPUTS
from ...prompts.prompt_set import PromptSet
from ...run.begin import check_settings
from ...run.host_batch import PromptResult
from ...run.part_writer import Committed, Writer
from ...run.parts import PartCollector
from ...steering.profile import Steering
from ...tokens.encode import Encoded, Encoder
from ...tokens.token_text import TokenTexts
from .rows import Finished, batch_of, read_files
from .running import ONE_DEVICE, EngineError, Parallel, VllmEngine, start

WINDOW_BYTES = 1 << 30
"""Router logits that workers may hold of requests that are not yet written."""
PATIENCE = 20.0
"""Seconds after which finished prompts are committed whatever their number."""

More = Callable[[], Awaitable[Sequence[int] | None]]
"""Gives numbers of prompts to run next; None where there are no more."""


def check_wanted(prompts: PromptSet, capture: Sequence[str], weight_type: str) -> None:
    """Raises EngineError for what can't be recorded inside vLLM."""
    check_settings(capture, 1, weight_type)
    if unknown := [name for name in capture if name in OUTPUTS]:
        raise EngineError(f"--capture {unknown[0]}: experts' outputs are not recorded inside vLLM")
    with_choices = next((prompt.id for prompt in prompts if prompt.choices), None)
    if with_choices is not None:
        raise EngineError(
            f"prompt {with_choices!r} has choices, which --engine vllm does not score: trace it without"
        )


class VllmRecording:
    """See the module. Open it inside a running event loop, and close it at the end.

    Args:
        prompts: all that may be run; the others are those of `trace_with_vllm`.
    Attributes:
        committed: what has been committed so far; `recomputed` are positions that were computed more than once.
    """

    def __init__(
        self,
        model: str,
        prompts: PromptSet,
        *,
        parallel: Parallel = ONE_DEVICE,
        arguments: Mapping[str, Any] | None = None,
        dtype: str = "auto",
        trust_remote_code: bool = False,
        capture: Sequence[str],
        sampling: Sampling,
        chat: bool = False,
        steering: Steering | None = None,
        limit: int | None = None,
        shard: tuple[int, int] | None = None,
        weight_type: str = "float16",
        part_events: int,
    ) -> None:
        self._model, self._prompts, self._parallel, self._arguments = model, prompts, parallel, arguments
        self._dtype, self._trust, self._capture = dtype, trust_remote_code, tuple(capture)
        self._sampling, self._chat, self._steering = sampling, chat, steering
        self._limit, self._shard = limit, shard
        self._weight_type, self._part_events = weight_type, part_events
        self._engine: VllmEngine | None = None
        self._files = 0
        self.ahead: dict[int, Encoded] = {}
        self.committed, self.recomputed = Committed(), 0

    @property
    def engine(self) -> VllmEngine:
        assert self._engine is not None
        return self._engine

    async def open(self) -> None:
        """Start vLLM, and let its workers keep rows.

        Raises:
            EngineError, ModelError, SteeringError: as `trace_with_vllm`.
        """
        from transformers import AutoTokenizer

        self._folder = tempfile.TemporaryDirectory(prefix="moescope-vllm-")
        self._engine = start(
            self._model, dtype=self._dtype, parallel=self._parallel, arguments=self._arguments,
            trust_remote_code=self._trust, steered=self._steering is not None,
        )  # fmt: skip
        await self.engine.begin(self._folder.name, self._capture)
        await self.engine.check(self._steering)
        self._tokenizer = AutoTokenizer.from_pretrained(self._model, trust_remote_code=self._trust)
        new, context = max(1, self._sampling.max_new_tokens), self.engine.context
        self.encoder = Encoder(
            self._tokenizer, chat=self._chat, max_length=None if context is None else context - new
        )

    def close(self) -> None:
        """Stop vLLM; may be called twice."""
        if self._engine is not None:
            self._engine.close()
        self._folder.cleanup()

    def manifest(self) -> dict[str, Any]:
        """What a manifest says of model and settings, as `TraceWriter` takes it."""
        new = self._sampling.max_new_tokens
        settings: dict[str, Any] = {"chat": self._chat, "limit": self._limit, "max_new_tokens": new}
        settings |= self._sampling.to_json() if new else {}
        settings |= {"shard": list(self._shard)} if self._shard is not None else {}
        return {
            "routers": self.engine.routers,
            "model": self.engine.card(),
            "settings": settings,
            "capture": self._capture,
            "weight_type": self._weight_type,
            "steering": None if self._steering is None else self._steering.to_json(),
        }

    async def run(self, writer: Writer, more: More, ran: Callable[[list[Finished]], None]) -> None:
        """All prompts that `more` gives, through the engine; parts are committed as they fill, and whatever is finished
        at the end.

        Args:
            ran: told of the prompts that have run.
        """
        collector = PartCollector(self.engine.routers, TokenTexts(self._tokenizer))
        window = max(1, WINDOW_BYTES // (4 * sum(spec.num_experts for spec in self.engine.routers)))
        finished: list[Finished] = []
        running: dict[asyncio.Task[Finished], int] = {}
        waiting: list[int] = []
        lot, due = 1, time.monotonic() + PATIENCE
        try:
            while True:
                if lot and not waiting and len(running) <= lot:  # so that vLLM never runs dry
                    waiting = list(reversed(await more() or ()))
                    lot = len(waiting)
                while waiting and (not running or sum(running.values()) < window):
                    task, length = self._sent(waiting.pop())
                    running[task] = length
                if not running:
                    return
                ready, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ready:
                    del running[task]
                done = [task.result() for task in ready]
                ran(done)
                finished += done
                tokens = sum(len(one.token_ids) for one in finished)
                full = tokens * len(self.engine.routers) >= self._part_events or tokens >= window
                if full or time.monotonic() >= due:
                    await self._commit(writer, collector, finished)
                    finished, due = [], time.monotonic() + PATIENCE
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            if finished:
                await self._commit(writer, collector, finished)

    def _sent(self, number: int) -> tuple[asyncio.Task[Finished], int]:
        """A request on its way, and how many tokens it may come to."""
        prompt = self._prompts[number]
        encoded = self.ahead.pop(number, None) or self.encoder.prompts([prompt])[0]
        task = asyncio.create_task(self._request(number, prompt, encoded))
        return task, len(encoded) + self._sampling.max_new_tokens

    async def _request(self, number: int, prompt: Any, encoded: Encoded) -> Finished:
        sampling = self._sampling
        options = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        try:
            last = await self.engine.answer(
                encoded.ids.tolist(),
                number=number,
                steering=self._steering,
                max_new_tokens=max(1, sampling.max_new_tokens),
                **options,
            )
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise EngineError(
                f"vLLM ended at prompt {prompt.id!r}: {' '.join(str(error).split())[:300] or type(error).__name__}; "
                "committed prompts are kept; continue with --resume"
            ) from error
        return self._finished(number, prompt, encoded, last.outputs[0])

    def _finished(self, number: int, prompt: Any, encoded: Encoded, answer: Any) -> Finished:
        new = list(answer.token_ids) if self._sampling.max_new_tokens else []
        fed = new[:-1]  # the last one was never fed
        stopped = new if answer.finish_reason != "stop" else new[:-1]
        generates = self._sampling.max_new_tokens > 0
        text = self._tokenizer.decode(stopped, skip_special_tokens=True) if generates else None
        special = np.isin(fed, self.encoder.special_ids)
        return Finished(
            PromptResult(prompt, number, generated=text),
            np.r_[encoded.ids, np.asarray(fed, np.int64)].astype(np.int64),
            np.r_[encoded.special, special].astype(bool),
            np.r_[encoded.completion, np.zeros(len(fed), bool)].astype(bool),
            len(encoded.ids),
        )

    async def _commit(self, writer: Writer, collector: PartCollector, finished: list[Finished]) -> None:
        classes = {str(one.number): one.classes.tolist() for one in finished}
        files = await self.engine.files(self._files, classes)
        self._files += 1
        await asyncio.to_thread(self._write, writer, collector, finished, files)

    def _write(
        self, writer: Writer, collector: PartCollector, finished: list[Finished], files: list[str]
    ) -> None:
        rows = read_files(files)
        self.recomputed += rows.recomputed
        collector.add(batch_of(self.engine.routers, finished, rows, self._weight_type))
        part = collector.part()
        writer.write(part)
        for path in files:
            os.remove(path)
        self.committed.prompts += part.prompts.num_rows
        self.committed.tokens += part.tokens.num_rows
        self.committed.events += sum(len(events.position) for events in part.events)
        self.committed.nan_tokens += sum(int(sums.nan_tokens.sum()) for sums in part.sums)

"""A worker whose model runs in a vLLM of its own, on the actor's GPUs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ...prompts.prompt_set import PromptSet
from ..vllm.recording import VllmRecording
from ..vllm.rows import Finished
from ..vllm.running import ONE_DEVICE, EngineError, Parallel
from .worker import Job, RemoteWriter, asked, check_reached, described_by


def devices_of(vllm: Mapping[str, Any]) -> int:
    """Over how many devices each vLLM spreads."""
    parallel: Parallel = vllm.get("parallel", ONE_DEVICE)
    return parallel.tensor * parallel.data


def in_an_actor(vllm: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `VllmRecording`. vLLM starts the processes of its devices itself: by default it would ask Ray for more
    actors, beside the one that has the GPUs."""
    arguments = dict(vllm.get("arguments") or {})
    if devices_of(vllm) > 1:
        arguments.setdefault("distributed_executor_backend", "mp")
    return {"parallel": vllm.get("parallel", ONE_DEVICE), "arguments": arguments}


class VllmWorker:
    """As `worker.Worker`: `run` may be called again, when there is more to do. Its methods are coroutines, so that Ray
    runs them all in one event loop, in which vLLM's client must stay."""

    def __init__(self, name: str, desk: Any, job: Job, prompts: PromptSet, steering: Any) -> None:
        self._name, self._desk, self._job, self._prompts = name, desk, job, prompts
        self._steering = steering
        self._recording: VllmRecording | None = None

    async def run(self) -> int:
        """Records until nothing waits; the number of prompts that this call committed."""
        if self._recording is None:
            self._recording = await self._prepared()
        before = self._recording.committed.prompts
        try:
            await self._recording.run(self._writer, self._more, self._ran)
        except EngineError as error:
            # As where this process had been killed: others run what was not committed.
            print(f"{self._name}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        return self._recording.committed.prompts - before

    async def _prepared(self) -> VllmRecording:
        job = self._job
        recording = VllmRecording(
            job.model, self._prompts, steering=self._steering, part_events=job.part_events, **job.recording
        )
        try:
            await recording.open()
            described = described_by(recording)
            created = await asyncio.to_thread(asked, self._desk.open.remote(self._name, described))
            check_reached(job.url, created)
        except BaseException:
            recording.close()
            raise
        self._writer = RemoteWriter(job, self._desk, self._name, described)
        return recording

    async def _more(self) -> Sequence[int] | None:
        return await asyncio.to_thread(asked, self._desk.deal.remote(self._name))

    def _ran(self, done: list[Finished]) -> None:
        # Not waited for: whoever asks for the next lot comes after it.
        self._desk.ran.remote(self._name, {one.number: len(one.token_ids) for one in done})

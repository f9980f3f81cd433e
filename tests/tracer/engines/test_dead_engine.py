"""Where vLLM's engine process is gone its answer never comes: the wait ends, and says how to go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from moescope.tracer.engines.vllm import running
from moescope.tracer.engines.vllm.running import ONE_DEVICE, EngineError, VllmEngine


class Engine:
    """Answers after `seconds`; its process is gone after `dies` looks at it."""

    def __init__(self, seconds: float, dies: int):
        self.seconds, self.dies, self.looks = seconds, dies, 0

    @property
    def errored(self) -> bool:
        self.looks += 1
        return self.looks > self.dies

    async def collective_rpc(self, method: str, args: Any) -> list[Any]:
        await asyncio.sleep(self.seconds)
        return [method, *args]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "ALIVE_SECONDS", 0.01)


def test_an_answer_that_never_comes_is_not_awaited() -> None:
    engine = VllmEngine("m", Engine(3600, dies=2), ONE_DEVICE, prefix_caching=False)
    with pytest.raises(
        EngineError, match="engine process has ended; what is committed stays, --resume goes on"
    ):
        asyncio.run(asyncio.wait_for(engine.call("moescope_state"), 20))


def test_a_slow_answer_of_a_living_engine_is() -> None:
    engine = VllmEngine("m", Engine(0.1, dies=10**9), ONE_DEVICE, prefix_caching=False)
    assert asyncio.run(engine.call("moescope_write", 1)) == ["moescope_write", 1]

"""An engine that can't be used: its process is gone and its answer never comes, or its release is another one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from moescope.tracer.engines.vllm import running
from moescope.tracer.engines.vllm.running import ONE_DEVICE, EngineError, VllmEngine, version_note


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


def test_a_release_is_refused_where_too_old_and_named_where_not_tried() -> None:
    assert version_note("0.32.1+cpu") is version_note(None) is version_note("dev") is None
    assert "moescope was run with 0.31, 0.32" in str(version_note("0.33.0"))
    with pytest.raises(EngineError, match=r"0\.9\.2 is too old: moescope needs 0\.15 or later"):
        version_note("0.9.2")

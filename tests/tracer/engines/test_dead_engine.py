"""An engine that can't be used: its process is gone and its answer never comes, or its release is another one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from moescope.tracer.engines.vllm import running
from moescope.tracer.engines.vllm.releases import version_note
from moescope.tracer.engines.vllm.running import ONE_DEVICE, EngineError, VllmEngine
from moescope.tracer.engines.vllm.settings import refuse_own, refuse_unknown, why_not_started


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
        EngineError, match="engine process has ended; committed prompts are kept; continue with --resume"
    ):
        asyncio.run(asyncio.wait_for(engine.call("moescope_state"), 20))


def test_a_slow_answer_of_a_living_engine_is() -> None:
    engine = VllmEngine("m", Engine(0.1, dies=10**9), ONE_DEVICE, prefix_caching=False)
    assert asyncio.run(engine.call("moescope_write", 1)) == ["moescope_write", 1]


def test_a_release_is_refused_where_too_old_and_named_where_not_tried() -> None:
    assert version_note("0.32.1+cpu") is version_note(None) is version_note("dev") is None
    assert "moescope was run with 0.31, 0.32" in str(version_note("0.33.0"))
    with pytest.raises(EngineError, match=r"0\.9\.2 is too old: moescope needs 0\.24 or later"):
        version_note("0.9.2")


def test_a_setting_that_vllm_does_not_take_is_named() -> None:
    known = ["max_model_len", "max_num_seqs"]
    refuse_unknown({"max_model_len": 1}, known)
    with pytest.raises(EngineError, match=r"--engine-arg max_modellen: .* did you mean max_model_len\?"):
        refuse_unknown({"max_modellen": 1}, known)
    with pytest.raises(EngineError, match=r"enable_prefix_caching can't be given: .* passes no router"):
        refuse_own({"enable_prefix_caching": True})
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, int]).validate_python({"max_model_len": "many"})
    said = why_not_started("m", {"max_model_len": "many"}, caught.value)
    assert said.startswith("--engine-arg max_model_len=many: Input should be a valid integer")
    assert "\n" not in said
    assert why_not_started("m", {}, ValueError("no\n  room")) == "vLLM can't start with m: no room"

"""A model in vLLM behind `moescope serve`: answers, each under its own steering, many at once.

vLLM batches all requests that are under way. Prefix caching is on; what a profile has computed is kept from others by a
salt of its own. What needs the whole next-token distribution or the model itself (scores, rewiring, KL) is refused.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..engines.vllm.running import ONE_DEVICE, Parallel, VllmEngine, start
from ..errors import SteeringError
from ..steering.profile import Steering
from .engine.engine import Event, Steps
from .engine.served import Served
from .errors import ApiError
from .limits import Limits
from .requests.checks import read_steering
from .requests.given import exactly_one

WAIT_S = 0.002
"""How long others wait for their turn while no token is there."""
SECONDS = 600.0


class _Loop:
    """An event loop in a thread of its own, for vLLM."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="moescope-vllm", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(SECONDS)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)


@dataclass(eq=False)
class VllmServed(Served):
    """What the server's worker holds: a running engine instead of a model."""

    engine: Any = None
    loop: Any = field(default_factory=_Loop)

    @classmethod
    def load(
        cls,
        model: str,
        *,
        parallel: Parallel = ONE_DEVICE,
        arguments: Mapping[str, Any] | None = None,
        dtype: str = "auto",
        trust_remote_code: bool = False,
    ) -> VllmServed:
        """Start the engine. Raises EngineError or ModelError."""
        from transformers import AutoTokenizer

        loop = _Loop()

        async def started() -> VllmEngine:
            engine = start(
                model, dtype=dtype, parallel=parallel, arguments=arguments, steered=True, prefix_caching=True,
                trust_remote_code=trust_remote_code,
            )  # fmt: skip
            try:
                await engine.begin()
            except BaseException:
                engine.close()
                raise
            return engine

        engine = loop.run(started())
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
        live: Any = None
        return cls(
            None, tokenizer, engine.card(), engine.routers, live, frozenset(), engine=engine, loop=loop
        )

    @property
    def context(self) -> int | None:
        return self.engine.context

    def describe(self, limits: Limits) -> dict[str, Any]:
        """The answer of /v1/model."""
        return {
            "model": self.card, "routers": [spec.to_json() for spec in self.routers], "device": "vllm",
            "dtype": self.engine.dtype, "context": self.context, "limits": asdict(limits),
            "chat_template": bool(getattr(self.tokenizer, "chat_template", None)),
        }  # fmt: skip

    def rest(self) -> None:
        """No steering outlives its request."""

    def close(self) -> None:
        """Stop the engine's processes."""
        self.engine.close()
        self.loop.close()

    def prepare(self, kind: str) -> Callable[[VllmServed, dict[str, Any], Limits], Any]:
        """What checks a request of a kind. Raises `ApiError` 501 for one that can't be had here."""
        if kind != "generate":
            raise ApiError(501, f"/v1/{kind} is not available with --engine vllm")
        return prepare_generate


def prepare_generate(served: VllmServed, request: dict[str, Any], limits: Limits) -> Callable[[Any], Steps]:
    """Check a request. Raises `ApiError` for what it asks too much or wrongly."""
    kind = exactly_one(request, "prompt", "messages")
    ids = served.encode(request[kind], kind, limits)
    steering = read_steering(request.get("steering"), served, limits)
    try:
        served.loop.run(served.engine.check(steering))
    except SteeringError as error:
        raise ApiError(422, f"steering: {error}", field="steering") from None
    new = int(request["max_new_tokens"])
    if served.context is not None and len(ids) + new > served.context:
        message = f"max_new_tokens: the model takes {served.context} tokens, the prompt has {len(ids)}"
        raise ApiError(400, message, field="max_new_tokens")
    if request["positions"]:
        raise ApiError(501, "positions: not available with --engine vllm", field="positions")
    return lambda loaded: generate_steps(loaded, ids, steering, request)


def generate_steps(
    served: VllmServed, ids: Sequence[int], steering: Steering | None, request: dict[str, Any]
) -> Steps:
    """Events of one request: the base and the steered answer side by side, as vLLM gives their tokens."""
    sides = {"steered": steering} if steering is not None else {"base": None}
    if request["compare"]:
        sides = {"base": None, "steered": steering}
    came: queue.Queue[tuple[str, Any]] = queue.Queue()
    writers = {side: _Writer(served, side) for side in sides}
    tasks = [
        asyncio.run_coroutine_threadsafe(
            _stream(served.engine, ids, side, own, request, came), served.loop.loop
        )
        for side, own in sides.items()
    ]
    left = len(tasks)
    try:
        while left:
            try:
                side, output = came.get(timeout=WAIT_S)
            except queue.Empty:
                yield None
                continue
            if isinstance(output, Exception):
                raise output
            if output is None:
                left -= 1
            else:
                yield from writers[side].events(output)
    finally:
        for task in tasks:
            task.cancel()
    yield {
        "done": True,
        "prompt_tokens": len(ids),
        **{side: writer.result() for side, writer in writers.items()},
    }


async def _stream(
    engine: VllmEngine, ids: Sequence[int], side: str, steering: Steering | None, request: dict[str, Any],
    came: queue.Queue[tuple[str, Any]],
) -> None:  # fmt: skip
    sampling = {name: request[name] for name in ("temperature", "top_p", "seed")}
    try:
        async for output in engine.generate(
            ids, steering=steering, max_new_tokens=int(request["max_new_tokens"]), logprobs=int(request["candidates"]),
            **sampling,
        ):  # fmt: skip
            came.put((side, output.outputs[0]))
        came.put((side, None))
    except Exception as error:  # noqa: BLE001 - raised in the thread that answers
        came.put((side, error))


class _Writer:
    """One side's answer as it grows."""

    def __init__(self, served: VllmServed, side: str) -> None:
        self._served, self.side = served, side
        self.ids: list[int] = []
        self.text = ""
        self.finish: str | None = None

    def events(self, answer: Any) -> list[Event]:
        """What is new in an output that holds everything so far; a piece of text stands with the last new token."""
        new, text = list(answer.token_ids)[len(self.ids) :], answer.text[len(self.text) :]
        found: list[Event] = []
        for place, token in enumerate(new):
            at = len(self.ids)
            logprobs = answer.logprobs[at]
            event: Event = {
                "side": self.side, "index": at, "token_id": token, "token": self._served.token_texts([token])[0],
                "text": text if place == len(new) - 1 else "", "logprob": logprobs[token].logprob, "experts": {},
                "kl": None,
            }  # fmt: skip
            if len(logprobs) > 1:
                ranked = sorted(logprobs.items(), key=lambda item: item[1].rank)
                names = self._served.token_texts([key for key, _ in ranked])
                event["candidates"] = {
                    self.side: [
                        [key, name, value.logprob] for (key, value), name in zip(ranked, names, strict=True)
                    ]
                }
            self.ids.append(token)
            found.append(event)
        self.text, self.finish = answer.text, answer.finish_reason
        return found

    def result(self) -> Event:
        return {
            "text": self.text, "token_ids": self.ids, "count": len(self.ids), "finish": self.finish, "mean_kl": None,
        }  # fmt: skip

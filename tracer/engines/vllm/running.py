"""A vLLM engine with moescope's worker in it, as the driving process sees it.

The engine runs in processes of its own (vLLM's `AsyncLLM`), one for each data-parallel rank, so that sending prompts,
reading answers and writing parts go on while it computes.
"""

# vLLM is not there where the types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Any

from ....store.schema import RouterSpec
from ...errors import CaptureError, SteeringError
from ...models.load_errors import ModelError
from ...steering.profile import Steering
from .errors import EngineError
from .orphans import this_process
from .releases import version_note, vllm_version
from .settings import be_quiet, refuse_own, refuse_unknown, why_not_started

WORKER = "moescope.tracer.engines.vllm.worker.RoutingWorker"
FILE_SECONDS = 300.0
"""Longest wait for a file that a worker was ordered to write."""
ALIVE_SECONDS = 2.0
"""How often the engine's process is looked at while an answer is awaited."""


@dataclass(frozen=True)
class Parallel:
    """How a model is laid over devices."""

    tensor: int = 1
    data: int = 1


ONE_DEVICE = Parallel()


@dataclass
class VllmEngine:
    """A running engine. Made by `start`; close it at the end.

    Attributes:
        routers: of the model, in the order of its layers.
    """

    name: str
    engine: Any
    parallel: Parallel
    prefix_caching: bool
    trust_remote_code: bool = False
    routers: list[RouterSpec] = field(default_factory=list)
    dtype: str = ""
    folder: str | None = None
    """Where workers write rows."""
    state: dict[str, Any] = field(default_factory=dict)
    """What the first worker last said of its steps."""
    context: int | None = None
    _sent: int = 0

    async def begin(self, folder: str | None = None, capture: Sequence[str] = ()) -> None:
        """Learn the model's routers; with a folder, workers keep rows for files there.

        Raises:
            EngineError: the model's routing can't be recorded; the message says why.
        """
        found = await self.call("moescope_begin", folder, list(capture), this_process())
        if refused := [text for worker in found for text in worker["refused"]]:
            raise EngineError(refused[0])
        self.routers = [RouterSpec.from_json(spec) for spec in found[0]["routers"]]
        self.dtype, self.folder = found[0]["dtype"], folder

    async def check(self, steering: Steering | None) -> None:
        """Raises SteeringError for rules that vLLM can't have, by name."""
        if steering is None:
            return
        rules = [rule.to_json() for rule in steering.rules]
        if problems := (await self.call("moescope_unsteerable", rules))[0]:
            raise SteeringError("; ".join(problems))

    async def call(self, method: str, *args: Any) -> list[Any]:
        """A method of the worker, on all workers. Raises EngineError, also where their process is gone: vLLM would wait
        for its answer for ever."""
        asked = asyncio.ensure_future(self.engine.collective_rpc(method, args=args))
        while not (await asyncio.wait([asked], timeout=ALIVE_SECONDS))[0]:
            if self.engine.errored:
                asked.cancel()
                raise EngineError(
                    "vLLM's engine process has ended; committed prompts are kept; continue with --resume"
                )
        try:
            return asked.result()
        except Exception as error:
            raise EngineError(f"vLLM's workers failed: {' '.join(str(error).split())[:500]}") from error

    def generate(
        self,
        ids: Sequence[int],
        *,
        number: int = -1,
        steering: Steering | None = None,
        prompt_length: int | None = None,
        max_new_tokens: int = 1,
        **sampling: Any,
    ) -> AsyncIterator[Any]:
        """One request; yields vLLM's outputs, each with all that was generated so far.

        Args:
            number: under which the worker keeps its rows; negative: it keeps none.
            prompt_length: tokens that count as prompt, for rules with that span; all that are sent if left out.
        """
        from vllm import SamplingParams

        rules = [] if steering is None else [rule.to_json() for rule in steering.rules]
        marks = {"number": number, "rules": rules, "prompt_length": prompt_length or len(ids)}
        params = SamplingParams(
            max_tokens=max_new_tokens, extra_args={"moescope": json.dumps(marks)}, **sampling
        )
        prompt: dict[str, Any] = {"prompt_token_ids": list(ids)}
        if self.prefix_caching:  # what one profile has computed is nothing for another
            prompt["cache_salt"] = json.dumps(rules, sort_keys=True)
        self._sent += 1
        return self.engine.generate(prompt, params, request_id=f"moescope-{self._sent}")

    async def answer(self, ids: Sequence[int], **asked: Any) -> Any:
        """As `generate`: the last output, with all that was generated."""
        last: Any = None
        async for output in self.generate(ids, **asked):
            last = output
        return last

    async def files(self, order: int, classes: Mapping[str, list[int]]) -> list[str]:
        """Have the workers write the rows of finished requests, and wait for the files.

        Args:
            order: a number that no other call has.
            classes: by the number of each request, the class of each of its tokens (`rows.Finished.classes`).
        Raises:
            CaptureError: what was recorded is not what was executed.
            EngineError: no file came.
        """
        assert self.folder is not None
        self.state = (await self.call("moescope_write", order, dict(classes)))[0]
        _raise_problem(self.state)
        paths = [
            os.path.join(self.folder, f"{order:06d}-{rank:03d}.npz") for rank in range(self.parallel.data)
        ]
        end = time.monotonic() + FILE_SECONDS
        while not all(map(os.path.exists, paths)):
            await asyncio.sleep(0.01)
            if time.monotonic() > end or int(end - time.monotonic()) % 5 == 0:
                _raise_problem((await self.call("moescope_state"))[0])
            if time.monotonic() > end:
                raise EngineError(
                    "a worker wrote no rows: all workers must share the folder for temporary files"
                )
        return paths

    def close(self) -> None:
        """Stop the engine's processes; may be called twice."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.shutdown()
            engine.shutdown = lambda *_: None  # its destructor would do it again, while Python is going down

    def card(self) -> dict[str, Any]:
        """What a manifest says of the model and of what ran it."""
        return {
            **checkpoint_card(self.name, self.trust_remote_code),
            "dtype": self.dtype,
            "engine": "vllm",
            "engine_version": vllm_version(),
            "parallel": {"tensor": self.parallel.tensor, "data": self.parallel.data},
        }


def start(
    model: str,
    *,
    dtype: str = "auto",
    parallel: Parallel = ONE_DEVICE,
    arguments: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    steered: bool = False,
    prefix_caching: bool = False,
) -> VllmEngine:
    """Start vLLM with moescope's worker. Must be called inside a running event loop.

    Args:
        arguments: further settings of vLLM's `AsyncEngineArgs`, by name.
        steered: rules will be applied: what is compiled or captured in a CUDA graph could not follow them, so
            every step runs eagerly.
    Raises:
        EngineError: vLLM is not installed, or can't start.
    """
    version_note(vllm_version())
    given = dict(arguments or {})
    refuse_own(given)
    be_quiet()
    try:
        from vllm import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise EngineError(
            f"--engine vllm needs vLLM in this Python environment ({error}); docs/scale.md says how to install it"
        ) from None
    if parallel.data > 1 and current_platform.is_cpu():
        raise EngineError(
            "--data-parallel: vLLM on CPUs can't gather the tokens of several copies for their experts; for copies of "
            "a whole model use --ray ... --workers N"
        )
    refuse_unknown(given, [known.name for known in fields(AsyncEngineArgs)])
    settings: dict[str, Any] = {
        "model": model, "dtype": dtype, "trust_remote_code": trust_remote_code,
        "tensor_parallel_size": parallel.tensor, "data_parallel_size": parallel.data, "seed": 0,
        "disable_log_stats": True, "use_tqdm_on_load": False,
    }  # fmt: skip
    settings |= {"enforce_eager": True} if steered else {}
    settings |= given
    if steered and not settings["enforce_eager"]:
        raise EngineError("--engine-arg enforce_eager=false: steering needs eager steps")
    settings |= {"worker_extension_cls": WORKER, "enable_prefix_caching": prefix_caching}
    try:
        engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**settings))
    except Exception as error:
        raise ModelError(why_not_started(model, given, error)) from error
    longest = engine.model_config.max_model_len
    return VllmEngine(model, engine, parallel, prefix_caching, trust_remote_code, context=longest)


def _raise_problem(state: dict[str, Any]) -> None:
    if state["problem"]:
        raise CaptureError(f"inside vLLM: {state['problem']}")


def checkpoint_card(name: str, trust_remote_code: bool) -> dict[str, Any]:
    """What a model's configuration says of it; weights are not read."""
    import hashlib

    from transformers import AutoConfig

    from ...models.card import stable_config

    config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    config_json = json.dumps(stable_config(config.to_dict()), sort_keys=True, default=str)
    return {
        "name": name,
        "architecture": next(iter(getattr(config, "architectures", None) or ()), None),
        "model_type": config.model_type,
        "layers": getattr(text, "num_hidden_layers", None),
        "hidden_size": getattr(text, "hidden_size", None),
        "vocab_size": getattr(text, "vocab_size", None),
        "config_hash": hashlib.sha256(config_json.encode()).hexdigest(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }

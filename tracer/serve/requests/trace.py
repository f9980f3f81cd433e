"""/v1/trace: record a trace with the model that is being served, as a background job, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....store.library import default_library
from ...run.trace import Progress, trace_prompts
from ..engine.engine import Event, Steps
from ..engine.served import Served
from ..engine.turns import in_turns
from ..errors import ApiError
from ..limits import Limits
from .checks import read_prompts, read_steering
from .evaluate import Prepared
from .score import encode


def prepare(served: Served, request: dict[str, Any], limits: Limits) -> Prepared:
    """Check a request against the model and the library; also says where the trace will be."""
    prompts = read_prompts(request["prompts"])
    steering = read_steering(request.get("steering"), served, limits)
    encode(served, prompts, bool(request["chat"]))
    out = default_library() / request["name"]
    if out.is_symlink():
        raise ApiError(
            409, f"name: {request['name']!r} is a symbolic link, and those are not followed", field="name"
        )
    if out.exists() and not request["resume"]:
        raise ApiError(
            409,
            f"name: there is already a trace {request['name']!r}; resume it or choose another",
            field="name",
        )

    def steps(loaded: Served) -> Steps:
        def work(pause: Callable[[Any], None]) -> Event:
            summary = trace_prompts(
                loaded.model,
                loaded.tokenizer,
                prompts,
                out,
                capture=request["capture"],
                batch_tokens=int(request["batch_tokens"]),
                max_new_tokens=int(request["max_new_tokens"]),
                chat=bool(request["chat"]),
                steering=steering,
                resume=bool(request["resume"]),
                progress=lambda progress: pause(_told(progress)),
                card=loaded.card or None,
            )
            return summary.to_json()

        for kind, value in in_turns(loaded.model, work, clear=loaded.live.rest):
            yield {"result": value} if kind == "end" else value

    return steps, {"trace": str(out)}


def _told(progress: Progress) -> Event:
    eta = progress.eta_seconds
    return {
        "prompts": progress.prompts,
        "total_prompts": progress.total_prompts,
        "tokens": progress.tokens,
        "total_tokens": progress.total_tokens,
        "eta_s": None if eta is None else round(eta, 2),
    }

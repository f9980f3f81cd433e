"""/v1/rewire: learn logit vectors on a text, with the loss before every step (arXiv 2510.14853).

A gradient step is a turn. Between two of them the learning is taken off the model, so that others generate from it as
it was loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from ...errors import SteeringError
from ...steering.learn_vector import going_on_from, learn_vector
from ...steering.profile import Steering
from ..engine.engine import Event, Steps
from ..engine.served import Served
from ..engine.turns import Pause, in_turns
from ..errors import ApiError
from ..limits import Limits
from .checks import read_steering
from .given import exactly_one


def prepare(served: Served, request: dict[str, Any], limits: Limits) -> Callable[[Served], Steps]:
    """Check a request against the model."""
    kind = exactly_one(request, "prompt", "messages")
    ids = served.encode(request[kind], kind, limits)
    if len(ids) < 2:
        raise ApiError(400, f"{kind}: at least two tokens are needed to learn from", field=kind)
    steering = read_steering(request.get("steering"), served, limits)
    start = read_steering(request.get("start"), served, limits, "start")
    if start is not None:
        _check_start(start, served)
    return lambda loaded: _steps(loaded, ids, steering, start, request)


def _check_start(start: Steering, served: Served) -> None:
    widths = {spec.layer: spec.num_experts for spec in served.routers if spec.stream == "decoder"}
    try:
        going_on_from(start, widths)
    except SteeringError as error:
        raise ApiError(422, f"start: {error}", field="start") from None


def _steps(
    served: Served, ids: list[int], steering: Steering | None, start: Steering | None, request: dict[str, Any]
) -> Steps:
    losses: list[float] = []

    def work(pause: Pause) -> Steering:
        def on_step(_: int, loss: float) -> None:
            losses.append(loss)
            pause(None)

        context_1S = torch.tensor([ids], device=served.live.device)
        with steering.applied(served.model, prompt_lengths=[len(ids)]) if steering else nullcontext():
            return learn_vector(
                served.model, context_1S, steps=int(request["steps"]), lr=float(request["learning_rate"]),
                layers=request["layers"], start=start, on_step=on_step,
            )  # fmt: skip

    try:
        for kind, value in in_turns(served.model, work, clear=served.live.rest):
            if kind == "pause":
                yield None
                continue
            yield _answer(value, losses, len(ids))
    except SteeringError as error:
        raise ApiError(422, f"steering: {error}", field="steering") from None


def _answer(learned: Steering, losses: list[float], tokens: int) -> Event:
    (rule,) = learned.rules
    return {
        "steering": learned.to_json(), "losses": losses, "loss_before": losses[0], "loss_after": losses[-1],
        "layers": list(rule.layers or ()), "tokens": tokens,
    }  # fmt: skip

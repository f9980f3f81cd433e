"""/v1/evaluate: a steering over a prompt set beside its controls, as a background job."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from ...errors import SteeringError
from ...evaluate.dose import dose_variants, doses_of_amount, doses_of_experts
from ...evaluate.effects import Evaluation
from ...evaluate.run import Variants, evaluate_steps, variants_of
from ...prompts.prompt_set import PromptSet
from ...steering.check import problems_with
from ...steering.profile import Steering
from ..engine.engine import Event, Steps
from ..engine.served import Served
from ..errors import ApiError
from ..limits import Limits
from .checks import read_prompts, read_steering
from .score import BATCH_TOKENS, encode

WAIT_S = 0.01
"""How long others wait for their turn while the result is being computed."""
Prepared = tuple[Callable[[Served], Steps], Event]


def prepare(served: Served, request: dict[str, Any], limits: Limits) -> Prepared:
    """Check a request against the model; also says what is known of the job before it runs."""
    prompts = read_prompts(request["prompts"])
    _check_columns(prompts, request)
    encode(served, prompts, bool(request["chat"]))
    variants, notes = _variants(served, request, limits)
    return (lambda loaded: _steps(loaded, prompts, variants, notes, request)), {"variants": list(variants)}


def _variants(served: Served, request: dict[str, Any], limits: Limits) -> tuple[Variants, list[str]]:
    steering = read_steering(request.get("steering"), served, limits)
    variants: Variants = {}
    notes: list[str] = []
    if steering is not None:
        draws, seed = int(request["controls"]), int(request["seed"])
        variants, notes = variants_of(steering, served.routers, draws=draws, seed=seed)
        if request["dose"] is not None and steering:
            variants = {**variants, **_doses(served, steering, request["dose"], seed)}
    for name, profile in request["variants"].items():
        dose = read_steering(profile, served, limits, f"variants.{name[:60]}")
        if dose is not None:
            variants = {**variants, name: ("dose", dose)}
    if request["dose"] is not None and not steering:
        raise ApiError(400, "dose: needs a `steering` with rules", field="dose")
    if not variants:
        raise ApiError(400, "give `steering` or `variants`", field="steering")
    return variants, notes


def _doses(served: Served, steering: Steering, dose: dict[str, Any], seed: int) -> Variants:
    """The variants of a dose curve. Raises `ApiError` 422 where a dose cannot be made."""
    values, ranking = [float(value) for value in dose["values"]], dose.get("ranking")
    if ranking is None:
        if not any("amount" in rule.to_json() for rule in steering.rules):
            raise ApiError(422, "dose: no rule of the profile has an amount; give a `ranking`", field="dose")
        make = doses_of_amount(steering)
    else:
        if any(value != int(value) or not 0 <= value <= len(ranking) for value in values):
            raise ApiError(422, f"dose.values: whole numbers up to {len(ranking)}", field="dose.values")
        make = doses_of_experts(steering.rules[0].to_json(), [(layer, expert) for layer, expert in ranking])
    try:
        made = {value: make(value) for value in values}
    except SteeringError as error:
        raise ApiError(422, f"dose: {error}", field="dose") from None
    for one in made.values():
        if problems := problems_with(one.rules, served.routers):
            raise ApiError(422, f"dose: {'; '.join(problems)[:1000]}", field="dose")
    return dose_variants(made.__getitem__, values, served.routers, draws=dose.get("draws", 0), seed=seed)


def _check_columns(prompts: PromptSet, request: dict[str, Any]) -> None:
    by, target = request["by"], request["target"]
    if by is None:
        if target is not None:
            raise ApiError(400, "target: needs `by`, the column that it is a value of", field="target")
        return
    values = {getattr(p, by) if by in ("language", "group") else p.tags.get(by) for p in prompts}
    if values <= {None}:
        raise ApiError(400, f"by: the prompts have no {by[:60]!r}", field="by")
    if target is not None and target not in values:
        raise ApiError(400, f"target: no prompt has {by} {target[:60]!r}", field="target")


def _steps(
    served: Served, prompts: PromptSet, variants: Variants, notes: list[str], request: dict[str, Any]
) -> Generator[Event | None, None, None]:
    evaluation = yield from evaluate_steps(
        served.live,
        served.tokenizer,
        prompts,
        variants,
        notes=notes,
        chat=bool(request["chat"]),
        max_new_tokens=int(request["max_new_tokens"]),
        batch_tokens=BATCH_TOKENS,
    )
    result = yield from _aside(lambda: result_of(evaluation, request["by"], request["target"]))
    yield {"result": result}


def _aside(work: Callable[[], Event]) -> Generator[None, None, Event]:
    """Arithmetic on many prompts in a thread of its own, while others go on using the model."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    try:
        while not future.done():
            wait([future], timeout=WAIT_S)
            yield
        return future.result()
    finally:
        pool.shutdown(wait=False)


def result_of(evaluation: Evaluation, by: str | None, target: str | None) -> Event:
    """Tables as rows, and the evaluation itself, from which clients can make other tables."""
    return {
        "effects": [_plain(row) for row in evaluation.effects(by, target=target).to_pylist()],
        "by_layer": [_plain(row) for row in evaluation.by_layer(by).to_pylist()],
        "notes": evaluation.notes,
        "evaluation": evaluation.to_json(),
    }


def _plain(row: Event) -> Event:
    """NaN (an interval of one prompt) and infinities as None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }

"""/v1/evaluate: a steering over a prompt set beside its controls, as a background job."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

from ..evaluate import Variants, evaluate_steps, variants_of
from ..evaluate_effects import Evaluation
from ..prompts import PromptSet
from .checks import read_prompts, read_steering
from .engine import Event, Steps
from .errors import ApiError
from .limits import Limits
from .scoring import BATCH_TOKENS, encode
from .served import Served

Prepared = tuple[Callable[[Served], Steps], Event]


def prepare(served: Served, request: dict[str, Any], limits: Limits) -> Prepared:
    """Check a request against the model; also says what is known of the job before it runs."""
    prompts = read_prompts(request["prompts"])
    _check_columns(prompts, request)
    encode(served, prompts, bool(request["chat"]))
    variants, notes = _variants(served, request)
    return (lambda loaded: _steps(loaded, prompts, variants, notes, request)), {"variants": list(variants)}


def _variants(served: Served, request: dict[str, Any]) -> tuple[Variants, list[str]]:
    steering = read_steering(request.get("steering"), served)
    variants: Variants = {}
    notes: list[str] = []
    if steering is not None:
        draws, seed = int(request["controls"]), int(request["seed"])
        variants, notes = variants_of(steering, served.routers, draws=draws, seed=seed)
    for name, profile in request["variants"].items():
        dose = read_steering(profile, served, f"variants.{name[:60]}")
        if dose is not None:
            variants = {**variants, name: ("dose", dose)}
    if not variants:
        raise ApiError(400, "give `steering` or `variants`", field="steering")
    return variants, notes


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
) -> Generator[Event, None, None]:
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
    yield {"result": result_of(evaluation, request["by"], request["target"])}


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

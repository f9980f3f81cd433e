"""Checks of a request that need the model: its steering, its prompts."""

from __future__ import annotations

from typing import Any

from ...errors import SteeringError
from ...prompts.prompt import PromptSetError
from ...prompts.prompt_set import PromptSet
from ...steering.check import problems_with
from ...steering.profile import Steering
from ..engine.served import Served
from ..errors import ApiError


def read_steering(profile: Any, served: Served, field: str = "steering") -> Steering | None:
    """A profile as a `Steering` of this model, or None. Raises `ApiError` 422 with all that does not fit."""
    if profile is None:
        return None
    try:
        steering = Steering.from_json(profile)
    except SteeringError as error:
        raise ApiError(422, f"{field}: {error}", field=field) from None
    if problems := problems_with(steering.rules, served.routers):
        raise ApiError(422, f"{field}: {'; '.join(problems)[:1000]}", field=field)
    return steering


def read_prompts(rows: list[Any], field: str = "prompts") -> PromptSet:
    """Rows of a request as a prompt set. Raises `ApiError` 400 that names row and column."""
    try:
        return PromptSet.from_rows(rows, name=field)
    except PromptSetError as error:
        raise ApiError(400, str(error), field=field) from None

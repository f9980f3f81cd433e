"""Checks of a request that need the model: its steering, its prompts."""

from __future__ import annotations

import re
from typing import Any

from ....store.files.manifest import MANIFEST_NAME
from ....store.library import default_library
from ...errors import SteeringError
from ...prompts.prompt import PromptSetError
from ...prompts.prompt_set import PromptSet
from ...steering.check import problems_with
from ...steering.profile import Steering
from ...steering.rules import KINDS
from ..engine.served import Served
from ..errors import ApiError
from ..limits import Limits

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a trace of the library may be called in a request."""


def read_steering(profile: Any, served: Served, limits: Limits, field: str = "steering") -> Steering | None:
    """A profile as a `Steering` of this model, or None. Raises `ApiError` 422 with all that does not fit."""
    if profile is None:
        return None
    _check_number(profile.get("rules"), limits, field)
    try:
        steering = Steering.from_json(_named_traces(profile, field))
    except SteeringError as error:
        raise ApiError(422, f"{field}: {error}", field=field) from None
    _check_number(steering.rules, limits, field)
    if problems := problems_with(steering.rules, served.routers):
        raise ApiError(422, f"{field}: {'; '.join(problems)[:1000]}", field=field)
    return steering


def _named_traces(profile: Any, field: str) -> Any:
    """The profile with the address of each trace that it names: one of the server's own library, never a path.

    Raises `ApiError` 422 for any other.
    """
    if not isinstance(profile, dict) or not isinstance(profile.get("rules"), list):
        return profile
    return profile | {"rules": [_named_trace(rule, field) for rule in profile["rules"]]}


def _named_trace(rule: Any, field: str) -> Any:
    kind = KINDS.get(str(rule.get("rule"))) if isinstance(rule, dict) else None
    if kind is None or not kind.replays:
        return rule
    name = rule.get("trace")
    library = default_library()
    if (
        not isinstance(name, str)
        or not _NAME.fullmatch(name)
        or not (library / name / MANIFEST_NAME).is_file()
    ):
        raise ApiError(
            422, f"{field}: replay takes the name of a trace in the server's library, and there is no {name!r:.120}",
            field=field,
        )  # fmt: skip
    return rule | {"trace": str(library / name)}


def _check_number(rules: Any, limits: Limits, field: str) -> None:
    """Tens of thousands of rules would hold up everybody else while they are read and fitted."""
    if isinstance(rules, (list, tuple)) and len(rules) > limits.rules:
        raise ApiError(
            422,
            f"{field}: {len(rules):,} rules, more than {limits.rules:,}: name several experts in one rule",
            field=field,
        )


def read_prompts(rows: list[Any], field: str = "prompts") -> PromptSet:
    """Rows of a request as a prompt set. Raises `ApiError` 400 that names row and column."""
    try:
        return PromptSet.from_rows(rows, name=field)
    except PromptSetError as error:
        raise ApiError(400, str(error), field=field) from None

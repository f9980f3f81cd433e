"""Checks of a request that need the model: its steering, its prompts."""

from __future__ import annotations

from typing import Any

from ....store.library import LIBRARY_NAME, default_library, trace_named
from ...errors import SteeringError
from ...prompts.prompt import PromptSetError
from ...prompts.prompt_set import PromptSet
from ...steering.check import problems_with
from ...steering.profile import Steering
from ...steering.rules import KINDS
from ..engine.served import Served
from ..errors import ApiError
from ..limits import Limits


def read_steering(profile: Any, served: Served, limits: Limits, field: str = "steering") -> Steering | None:
    """A profile as a `Steering` of this model, or None. Raises `ApiError` 422 with all that does not fit."""
    if profile is None:
        return None
    _check_number(profile.get("rules"), limits, field)
    try:
        steering = Steering.from_json(_with_addresses(profile, field))
    except SteeringError as error:
        raise ApiError(422, f"{field}: {error}", field=field) from None
    _check_number(steering.rules, limits, field)
    if problems := problems_with(steering.rules, served.routers):
        raise ApiError(422, f"{field}: {'; '.join(problems)[:1000]}", field=field)
    return steering


def _with_addresses(profile: Any, field: str) -> Any:
    """The profile with the address of each trace and file that it names: of the server's own library, never a path.

    Raises `ApiError` 422 for any other.
    """
    if not isinstance(profile, dict) or not isinstance(profile.get("rules"), list):
        return profile
    return profile | {"rules": [_with_address(rule, field) for rule in profile["rules"]]}


def _with_address(rule: Any, field: str) -> Any:
    kind = KINDS.get(str(rule.get("rule"))) if isinstance(rule, dict) else None
    for option, row in kind.options.items() if kind is not None else ():
        if row.holds in _LIBRARY and (option in rule or not row.optional):
            rule = rule | {option: _in_library(rule["rule"], rule.get(option), _LIBRARY[row.holds], field)}
    return rule


_LIBRARY = {"routing": "trace", "file": "file", "mask": "file"}
"""Options that name something on disk, and what."""


def _in_library(rule: str, name: Any, what: str, field: str) -> str:
    found = None
    if isinstance(name, str):
        found = trace_named(name) if what == "trace" else _file_named(name)
    if found is None:
        raise ApiError(
            422, f"{field}: {rule} takes the name of a {what} in the server's library, and there is no {name!r:.120}",
            field=field,
        )  # fmt: skip
    return found


def _file_named(name: str) -> str | None:
    path = default_library() / name
    return str(path) if LIBRARY_NAME.fullmatch(name) and path.is_file() else None


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

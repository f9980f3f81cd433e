"""The parameters of a view as options of `moescope view`, by the types of the view's function."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any

import click


def parse(words: tuple[str, ...], parameters: dict[str, inspect.Parameter]) -> dict[str, Any]:
    """`--key value`, `--key=value` and bare `--flag` as the view's parameters."""
    found: dict[str, Any] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            raise click.UsageError(f"{word!r} stands where an option was expected")
        name, joined, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name not in parameters:
            known = ", ".join("--" + key.replace("_", "-") for key in parameters)
            raise click.UsageError(f"this view has no option --{name.replace('_', '-')}; it has {known}")
        kinds = _kinds(parameters[name].annotation)
        if not joined:
            flag = bool in kinds and (not left or left[0].startswith("--"))
            if not flag and not left:
                raise click.UsageError(f"--{name.replace('_', '-')} needs a value")
            value = "true" if flag else left.pop(0)
        # A mapping that may also be named as a file is given as one.
        if dict in kinds and str not in kinds:
            asked = found.setdefault(name, {})
            for column, values in _where(value).items():
                asked[column] = [*asked.get(column, ()), *values]
        else:
            found[name] = _convert(name, value, kinds)
    return found


def _kinds(annotation: Any) -> set[type]:
    """The plain types that a parameter takes; a mapping of columns counts as dict."""
    options = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    return {kind for option in options if (kind := _plain(option)) is not None}


def _is_union(annotation: Any) -> bool:
    return isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union


def _plain(option: Any) -> type | None:
    origin = typing.get_origin(option) or option
    if isinstance(origin, type) and issubclass(origin, typing.Mapping):  # pyright: ignore[reportArgumentType]
        values = typing.get_args(option)[1:]
        # Where maps columns to values; a mapping of numbers (scores) is given as a file instead.
        return dict if values and values[0] is not float else None
    return origin if origin in (bool, int, float, str) else None


def _where(text: str) -> dict[str, list[str]]:
    found = {}
    for condition in text.split(";"):
        column, equals, values = condition.partition("=")
        if not equals:
            raise click.UsageError(f"{condition!r} is not a filter; write column=value,value")
        found[column.strip()] = values.split(",")
    return found


Conditions = dict[str, list[str]] | None
"""Values by column or tag; None for all prompts."""


def conditions(words: tuple[str, ...]) -> Conditions:
    """`column=value,value` given once or more, as one filter; None where nothing was given."""
    found: dict[str, list[str]] = {}
    for word in words:
        for column, values in _where(word).items():
            found[column] = [*found.get(column, ()), *values]
    return found or None


def _convert(name: str, value: str, kinds: set[type]) -> Any:
    try:
        if bool in kinds:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                value.lower()
            ]
        if int in kinds and str not in kinds:
            return int(value)
        if float in kinds:
            return float(value)
    except (KeyError, ValueError):
        wanted = " or ".join(
            sorted({bool: "true, false", int: "a whole number", float: "a number"}[k] for k in kinds)
        )
        raise click.UsageError(f"--{name.replace('_', '-')} is {value!r}; it takes {wanted}") from None
    return value

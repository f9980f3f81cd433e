"""From the bytes of a request to its fields; whatever is wrong is one line that names the field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import ApiError
from .bodies import Body, PromptRow

KINDS = {
    "string": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array", "dict": "object",
    "model": "object",
}  # fmt: skip
"""JSON's name of what pydantic calls `string_type`, `int_type`, ..."""
BOUNDS = {
    "greater_than_equal": ("at least", "ge"), "greater_than": ("above", "gt"), "less_than_equal": ("at most", "le"),
}  # fmt: skip


def parse(body: bytes, model: type[Body]) -> dict[str, Any]:
    """A request body with its defaults filled in. Raises `ApiError` 400 that names the field."""
    data = decode_json(body)
    try:
        model.model_validate(data)
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=lambda one: list(map(str, one["loc"])))
        field = field_of(first)
        raise ApiError(
            400, f"{field or 'the body'}: {_explained(first, model)}", field=field or None
        ) from None
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in model.model_fields.items()
        if not field.is_required()
    }
    return {**defaults, **data}


def decode_json(body: bytes) -> Any:
    """JSON text as Python values. Raises `ApiError` 400: not JSON, NaN or Infinity, lone surrogates."""
    try:
        data = json.loads(body, parse_constant=_no_constant)
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError(400, "the body contains half a surrogate pair, which is not a character") from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {str(error)[:200]}") from None
    return data


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def field_of(error: ErrorDetails) -> str:
    """The part of the request that an error is about, as `prompts[3].text`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    return text.lstrip(".")[:200]


def _explained(error: ErrorDetails, model: type[BaseModel]) -> str:
    kind, value, said = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        known = _model_at(model, error["loc"][:-1]).model_fields
        return f"is not known here; known are {', '.join(sorted(known))}"
    if kind in BOUNDS:
        words, bound = BOUNDS[kind]
        limit = said[bound]
        shown = f"{limit:,}" if isinstance(limit, int) else f"{limit:,.10g}"
        return f"must be {words} {shown}, not {str(value)[:40]}"
    if kind in ("string_too_short", "too_short"):
        least, noun = said["min_length"], "character" if kind.startswith("string") else "entry"
        return f"needs at least {least} {noun if least == 1 else noun.replace('y', 'ie') + 's'}"
    if kind == "too_long":
        return f"has {said['actual_length']} entries; at most {said['max_length']} are allowed"
    if kind == "string_pattern_mismatch":
        return "must be letters, digits, dots, dashes and underscores, and begin with a letter or digit"
    if kind == "literal_error":
        return f"must be one of {said['expected']}"
    if kind.endswith("_type") and (name := kind.removesuffix("_type")) in KINDS:
        row = name == "model" and _model_at(model, error["loc"]) is PromptRow
        return f"must be {'string or ' if row else ''}{KINDS[name]}, not {type(value).__name__}"
    return error["msg"][:200]


def _model_at(model: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel]:
    """The model of the object at a place of the request; the nearest one above where there is none."""
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)

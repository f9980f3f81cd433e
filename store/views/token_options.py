"""Views take one `tokens` object; callers may name its fields as options of the view instead.

@view("load")
def load(trace, *, tokens: TokenFilter = ALL_TOKENS) -> pa.Table: ...

trace.view("load", phase="decode")    # the same as tokens=TokenFilter(phase="decode")
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, replace
from typing import Any, get_type_hints

import pyarrow as pa

from ..read.token_filter import TokenKind

View = Callable[..., pa.Table]
NAME = "tokens"


def with_token_options(function: View) -> View:
    """A view that takes the fields of its `tokens` as keyword parameters too."""
    default = inspect.signature(function).parameters.get(NAME)
    if default is None:
        return function
    names = {field.name for field in fields(default.default)}

    @functools.wraps(function)
    def call(trace: Any, **params: Any) -> pa.Table:
        given = {name: params.pop(name) for name in names & params.keys()}
        if given:
            params[NAME] = replace(params.get(NAME, default.default), **given)
        return function(trace, **params)

    return call


def parameters_of(function: View) -> dict[str, inspect.Parameter]:
    """Parameters of a view without the trace, `tokens` replaced by its fields; annotations are types, not text."""
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(inspect.unwrap(function), eval_str=True).parameters.items():
        if name == NAME:
            found |= _options(type(parameter.default))
        elif name != "trace":
            found[name] = parameter
    return found


def token_words(function: View) -> dict[str, str]:
    """The fields of the view's `tokens`, and what each does; empty where it has none."""
    tokens = inspect.signature(inspect.unwrap(function)).parameters.get(NAME)
    return {} if tokens is None else type(tokens.default).words()


def _options(kind: type[TokenKind]) -> dict[str, inspect.Parameter]:
    types = get_type_hints(kind)

    def option(field: Field[Any]) -> inspect.Parameter:
        assert field.default is not MISSING
        return inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name]
        )

    first = sorted(fields(kind), key=lambda field: field.name != "where")
    return {field.name: option(field) for field in first}

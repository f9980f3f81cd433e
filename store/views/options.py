"""Views take objects of related options; callers may name the fields as options of the view instead.

@view("alignment")
def alignment(trace, *, routers: Routers = DECODER, tokens: TokenFilter = ALL_TOKENS) -> pa.Table: ...

trace.view("alignment", layers="3:6", phase="decode")
# the same as routers=Routers(layers="3:6"), tokens=TokenFilter(phase="decode")
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, get_type_hints

import pyarrow as pa

from ..option_group import OptionGroup
from ..read.selection import Where
from ..read.trace_rows import TraceRows
from ..schema import RouterSpec
from .layers import layers_of

View = Callable[..., pa.Table]


@dataclass(frozen=True, kw_only=True)
class Routers(OptionGroup):
    """The routers that a view is about."""

    TITLE: ClassVar[str] = "Routers"
    WORDS: ClassVar[Mapping[str, str]] = {
        "layers": "a window such as 3:6 (both ends in) or a list such as 3,5; all layers by default.",
        "stream": "which router of a layer, where it has several (`moescope info` lists them).",
    }
    layers: str | None = None
    stream: str = "decoder"

    def numbers(self, trace: TraceRows) -> list[int]:
        """Numbers of the layers. Raises UnknownColumn where there is no such router."""
        return layers_of(trace, self.layers, self.stream)

    def specs(self, trace: TraceRows) -> list[RouterSpec]:
        """The routers, in the order of the layers. Raises UnknownColumn where there is none."""
        return [trace.router(layer, self.stream) for layer in self.numbers(trace)]


INTERVALS_OVER = "95 % bootstrap intervals over"
"""How the note of intervals begins."""


@dataclass(frozen=True, kw_only=True)
class Intervals(OptionGroup):
    """How intervals are drawn."""

    TITLE: ClassVar[str] = "Intervals"
    WORDS: ClassVar[Mapping[str, str]] = {
        "resamples": "bootstrap resamples for the 95 % intervals.",
        "seed": "seed of the random draws.",
    }
    resamples: int = 1000
    seed: int = 0

    def note(self, over: str) -> str:
        """How the intervals were drawn, to print beside a figure; `over` what was resampled: `parallel units`."""
        return f"{INTERVALS_OVER} {over}: {self.resamples:,} resamples, seed {self.seed}."


@dataclass(frozen=True, kw_only=True)
class Split(OptionGroup):
    """Prompts that a decision is fitted on; it is reported on the others."""

    TITLE: ClassVar[str] = "Prompts to fit on"
    WORDS: ClassVar[Mapping[str, str]] = {
        "fit_where": "prompts to fit on, e.g. group=calibration; a random half of the texts by default.",
        "seed": "seed of the random half, and of other random draws.",
    }
    fit_where: Where | None = None
    seed: int = 0


DECODER = Routers()
INTERVALS = Intervals()
MORE_INTERVALS = Intervals(resamples=2000)
FEWER_INTERVALS = Intervals(resamples=500)
HALVES = Split()


def with_options(function: View) -> View:
    """A view that takes the fields of its option groups as keyword parameters too."""
    groups = groups_of(function)
    if not groups:
        return function

    @functools.wraps(function)
    def call(trace: Any, **params: Any) -> pa.Table:
        for name, default in groups.items():
            given = {key: params.pop(key) for key in default.words() if key in params}
            if given:
                params[name] = replace(params.get(name, default), **given)
        return function(trace, **params)

    return call


def groups_of(function: View) -> dict[str, Any]:
    """The parameters of a view that are option groups, with their defaults."""
    parameters = inspect.signature(inspect.unwrap(function)).parameters
    return {name: p.default for name, p in parameters.items() if isinstance(p.default, OptionGroup)}


def parameters_of(function: View) -> dict[str, inspect.Parameter]:
    """Parameters of a view without the trace, groups replaced by their fields; annotations are types, not text."""
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(inspect.unwrap(function), eval_str=True).parameters.items():
        if isinstance(parameter.default, OptionGroup):
            found |= _fields(parameter.default)
        elif name != "trace":
            found[name] = parameter
    return found


def words_of(function: View) -> list[str]:
    """Lines of help about the fields of the view's option groups."""
    lines = []
    for default in groups_of(function).values():
        lines += ["", f"{default.TITLE}:", *(f"    {key}: {what}" for key, what in default.words().items())]
    return lines


def _fields(default: Any) -> dict[str, inspect.Parameter]:
    types = get_type_hints(type(default))
    first = sorted(fields(default), key=lambda field: field.name != "where")
    return {
        field.name: inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY,
            default=getattr(default, field.name), annotation=types[field.name],
        )
        for field in first
    }  # fmt: skip

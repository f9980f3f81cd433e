"""Routers declared for a model once, so that every later use of it finds them: tracing, steering, serving, checking.

A declaration as text is for the command line and for forms: a module path, then fields after commas.

    model.layers.*.mlp.gate,experts=8,top_k=2,ids=0,weights=1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..errors import UnknownRouterError
from .declared import DeclaredRouter

SYNTAX = "PATH,experts=E,top_k=K,ids=WHERE,weights=WHERE,logits=WHERE"
_ATTRIBUTE = "_moescope_declared"
_NAMES = {"experts": "num_experts", "k": "top_k"}
_WHOLE = ("num_experts", "top_k", "layer")
_WHERE = ("ids", "weights", "logits")
_TEXT = ("stream", "scoring", "note")


def declare_routers(model: nn.Module, routers: Sequence[DeclaredRouter]) -> None:
    """From now on these are the routers of this model, and no others; none given: those that are found by themselves.

    Raises:
        UnknownRouterError: a declaration matches no module, or says not where decisions are.
    """
    from .declared import declared_sites

    declared_sites(list(routers), dict(model.named_modules()))
    setattr(model, _ATTRIBUTE, tuple(routers))


def declared_for(model: nn.Module) -> tuple[DeclaredRouter, ...]:
    """What was declared for a model."""
    return getattr(model, _ATTRIBUTE, ())


def read_router(text: str) -> DeclaredRouter:
    """A declaration from text.

    `ids`, `weights` and `logits` say where in the module's output they are: an index, or the name of an attribute.
    Further fields: `stream`, `scoring` (softmax or sigmoid), `layer`, `note`.

    Raises:
        UnknownRouterError: a field that is not known, or not as it must be.
    """
    path, *parts = (part.strip() for part in text.split(","))
    fields: dict[str, Any] = {"top_k": None}
    for part in parts:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        fields[_NAMES.get(name, name)] = _value(text, _NAMES.get(name, name), value if equals else "")
    if not path or "num_experts" not in fields or not fields.keys() & set(_WHERE):
        raise UnknownRouterError(
            f"router {text!r}: it needs a module path, experts and at least one of ids, weights and logits: {SYNTAX}"
        )
    return DeclaredRouter(router=path, **fields)


def _value(text: str, name: str, value: str) -> Any:
    if name in _TEXT and value:
        return value
    if name in _WHERE and value:
        return int(value) if value.removeprefix("-").isdecimal() else value
    if name in _WHOLE and value.isdecimal() and len(value) < 10 and (int(value) or name == "layer"):
        return int(value)
    raise UnknownRouterError(
        f"router {text!r}: {name or 'a field'}={value} cannot be understood; write {SYNTAX}"
    )

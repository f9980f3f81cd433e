"""Reads a router's declaration from text, for the command line and for forms; without loading torch.

model.layers.*.mlp.gate,experts=8,top_k=2,ids=0,weights=1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UnknownRouterError

SYNTAX = "PATH,experts=E,top_k=K,ids=WHERE,weights=WHERE,logits=WHERE"
_NAMES = {"experts": "num_experts", "k": "top_k"}
_WHOLE = ("num_experts", "top_k", "layer")
_WHERE = ("ids", "weights", "logits")
_TEXT = ("stream", "scoring", "note")


def read_fields(text: str) -> dict[str, Any]:
    """The fields of a `DeclaredRouter`.

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
    return {"router": path, **fields}


def to_text(fields: Mapping[str, Any]) -> str | None:
    """The text of a declaration; None where a field is a function, which no text can hold."""
    given = {
        name: fields[name]
        for name in (*_WHOLE, *_WHERE, *_TEXT)
        if fields.get(name) not in (None, "", -1, "decoder")
    }
    given |= {name: -1 for name in _WHERE if fields.get(name) == -1}
    if any(callable(value) or "," in str(value) for value in given.values()):
        return None
    return ",".join([str(fields["router"]), *(f"{name}={value}" for name, value in given.items())])


def _value(text: str, name: str, value: str) -> Any:
    if name in _TEXT and value:
        return value
    if name in _WHERE and value:
        return int(value) if value.removeprefix("-").isdecimal() else value
    if name in _WHOLE and value.isdecimal() and len(value) < 10 and (int(value) or name == "layer"):
        return int(value)
    raise UnknownRouterError(f"router {text!r}: {name or 'a field'}={value} is not valid; write {SYNTAX}")

"""Steering profiles as the pages make them: plain data, validated where a model is at hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

PROFILE_VERSION = 1


def profile(name: str, model: Any, rules: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A profile in the form that `Steering.from_json` reads."""
    return {"version": PROFILE_VERSION, "name": name, "model": model, "rules": [dict(rule) for rule in rules]}


def rules_by_layer(
    rule: str, cells: Iterable[tuple[int, int]], *, stream: str = "decoder", **amounts: Any
) -> list[dict[str, Any]]:
    """One rule a layer for a set of (layer, expert) cells, layers and experts in order."""
    experts_of: dict[int, set[int]] = {}
    for layer, expert in cells:
        experts_of.setdefault(layer, set()).add(expert)
    extra = {} if stream == "decoder" else {"stream": stream}
    return [
        {"rule": rule, "layers": [layer], "experts": sorted(experts), **amounts, **extra}
        for layer, experts in sorted(experts_of.items())
    ]


def as_file(made: Mapping[str, Any]) -> bytes:
    """The profile as a JSON file."""
    return (json.dumps(made, indent=2, ensure_ascii=False) + "\n").encode()

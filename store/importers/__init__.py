"""Routing recorded by others, read into traces: one module for each format.

run("vllm", "requests.jsonl", "my-trace", experts=128)
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from ..errors import ImportRefused
from .build import Imported
from .neutral import import_neutral
from .sglang import import_sglang
from .vllm import import_vllm

FORMATS: dict[str, Callable[..., Imported]] = {
    "neutral": import_neutral,
    "sglang": import_sglang,
    "vllm": import_vllm,
}


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """Options of a format by name. Raises ImportRefused for an unknown format."""
    signature = inspect.signature(_function(name), eval_str=True)
    return {key: value for key, value in signature.parameters.items() if key not in ("path", "out")}


def run(name: str, path: str | os.PathLike[str], out: str | os.PathLike[str], **options: Any) -> Imported:
    """Import a file as a trace that is there whole or not at all.

    Raises:
        ImportRefused: an unknown format or option, or a file that is not what it should be.
    """
    unknown = sorted(set(options) - set(parameters(name)))
    if unknown:
        raise ImportRefused(f"format {name} has no option {unknown[0]!r}")
    return _function(name)(path, out, **options)


def _function(name: str) -> Callable[..., Imported]:
    if name not in FORMATS:
        raise ImportRefused(f"there is no import format {name!r}; there are: {', '.join(FORMATS)}")
    return FORMATS[name]

"""GGUF files are read once.

transformers parses the whole file for the configuration, again for the tokenizer and again for the weights, and
builds its table of tensor names anew for every module: half a minute for a model of 135 M parameters. Both are
kept for as long as one model is loaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

from .load_errors import ModelError


def gguf_ready(gguf_file: str) -> str:
    """The name of the file, if what reads it is installed."""
    missing = [package for package in ("gguf", "accelerate") if importlib.util.find_spec(package) is None]
    if missing:
        raise ModelError(
            f"{gguf_file}: reading GGUF needs {' and '.join(missing)}: pip install 'moescope[gguf]'"
        )
    return gguf_file


@contextmanager
def read_once() -> Iterator[None]:
    """While this is open, a GGUF file is parsed the first time only."""
    import gguf

    with ExitStack() as stack:
        for name in ("GGUFReader", "get_tensor_name_map"):
            once: Any = cache(getattr(gguf, name))
            stack.enter_context(patch.object(gguf, name, once))
        yield

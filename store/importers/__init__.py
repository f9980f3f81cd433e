"""Routing recorded by others, read into traces: one module for each format, listed in `formats`.

run("vllm", "requests.jsonl", "my-trace", experts=128)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .formats import FORMATS as FORMATS
from .formats import check_options, function
from .formats import parameters as parameters

if TYPE_CHECKING:
    from .build import Imported


def run(name: str, path: str | os.PathLike[str], out: str | os.PathLike[str], **options: Any) -> Imported:
    """Import a file as a trace that is there whole or not at all.

    Raises:
        ImportRefused: an unknown format or option, or a file that is not what it should be.
    """
    check_options(name, options)
    return function(name)(path, out, **options)

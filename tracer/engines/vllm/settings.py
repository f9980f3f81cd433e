"""Settings that are passed on to vLLM (`--engine-arg`): what is refused, and in which words."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import EngineError

OWN = {
    "worker_extension_cls": "moescope sets it to its own worker",
    "enable_prefix_caching": "it is off for a trace and an evaluation, since a cached token passes no router; a "
    "server keeps it on, with a salt for each profile",
}
"""Settings that moescope makes itself, and why."""


def refuse_own(given: Mapping[str, Any]) -> None:
    """Raises EngineError for a setting that moescope makes itself."""
    if clash := sorted(OWN.keys() & given.keys()):
        raise EngineError(f"--engine-arg {clash[0]} can't be given: {OWN[clash[0]]}")


def refuse_unknown(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises EngineError for a setting that this vLLM doesn't have."""
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise EngineError(f"--engine-arg {name}: this vLLM has no setting of that name{meant}")


def why_not_started(model: str, given: Mapping[str, Any], error: Exception) -> str:
    """One line on why vLLM did not start; a setting that it does not take is named with its value."""
    try:
        first = error.errors()[0]  # type: ignore[attr-defined]  # pydantic's
        place, said = first["loc"][0], first["msg"]
    except (AttributeError, LookupError):
        return f"vLLM can't start with {model}: {' '.join(str(error).split())[:500]}"
    if place in given:
        return f"--engine-arg {place}={given[place]}: {said}"
    return f"vLLM can't start with {model}: {place}: {said}"


def be_quiet() -> None:
    """Keep vLLM's notes off the terminal, and everything that it says off stdout; call it before vLLM is imported."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for the command's own answer
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # Inherited by the workers: deprecations inside vLLM, shared memory "leaked" by an engine that was refused.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Said on every CPU, before vLLM has set up its logging.
    logging.getLogger("vllm.triton_utils.importing").setLevel(logging.ERROR)

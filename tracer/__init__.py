"""Runs models: finds routers, records routing events, steers.

The names below are loaded when they are first used, so that importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..store.schema import RouterSpec as RouterSpec
    from .declared import DeclaredRouter as DeclaredRouter
    from .emergent import emergent_moe as emergent_moe
    from .load import LoadedModel as LoadedModel
    from .load import load_model as load_model
    from .prompts import Prompt as Prompt
    from .prompts import PromptSet as PromptSet
    from .prompts import PromptSetError as PromptSetError
    from .record import record_routing as record_routing
    from .routers import find_routers as find_routers
    from .run import TraceSummary as TraceSummary
    from .run import trace_prompts as trace_prompts
    from .save import save_routing as save_routing
    from .steering import PerSequence as PerSequence
    from .steering import Steering as Steering
    from .steering_vector import learn_vector as learn_vector

_HOMES = {
    "DeclaredRouter": ".declared",
    "PerSequence": ".steering",
    "learn_vector": ".steering_vector",
    "save_routing": ".save",
    "LoadedModel": ".load",
    "load_model": ".load",
    "Prompt": ".prompts",
    "PromptSet": ".prompts",
    "PromptSetError": ".prompts",
    "RouterSpec": "..store.schema",
    "Steering": ".steering",
    "emergent_moe": ".emergent",
    "find_routers": ".routers",
    "record_routing": ".record",
    "TraceSummary": ".run",
    "trace_prompts": ".run",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

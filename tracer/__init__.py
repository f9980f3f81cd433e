"""Runs models: finds routers, records routing events, steers.

The names below are loaded when they are first used, so that importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import lazily

if TYPE_CHECKING:
    from ..store.schema import RouterSpec as RouterSpec
    from .hooks.record import record_routing as record_routing
    from .hooks.save import save_routing as save_routing
    from .models.load import LoadedModel as LoadedModel
    from .models.load import load_model as load_model
    from .prompts.prompt import Prompt as Prompt
    from .prompts.prompt import PromptSetError as PromptSetError
    from .prompts.prompt_set import PromptSet as PromptSet
    from .routers.declare import declare_routers as declare_routers
    from .routers.declared import DeclaredRouter as DeclaredRouter
    from .routers.emergent import emergent_moe as emergent_moe
    from .routers.find import find_routers as find_routers
    from .run.trace import TraceSummary as TraceSummary
    from .run.trace import trace_prompts as trace_prompts
    from .steering.learn_vector import learn_vector as learn_vector
    from .steering.profile import PerSequence as PerSequence
    from .steering.profile import Steering as Steering

_HOMES = {
    "DeclaredRouter": ".routers.declared",
    "LoadedModel": ".models.load",
    "PerSequence": ".steering.profile",
    "Prompt": ".prompts.prompt",
    "PromptSet": ".prompts.prompt_set",
    "PromptSetError": ".prompts.prompt",
    "RouterSpec": "..store.schema",
    "Steering": ".steering.profile",
    "TraceSummary": ".run.trace",
    "declare_routers": ".routers.declare",
    "emergent_moe": ".routers.emergent",
    "find_routers": ".routers.find",
    "learn_vector": ".steering.learn_vector",
    "load_model": ".models.load",
    "record_routing": ".hooks.record",
    "save_routing": ".hooks.save",
    "trace_prompts": ".run.trace",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

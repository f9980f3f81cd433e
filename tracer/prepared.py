"""A model made ready as the user asked: loaded, its routers declared, a dense one viewed as emergent experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .models.load import LoadedModel, load_model

OPTIONS = (
    "device", "dtype", "trust_remote_code", "gguf_file", "allow_missing", "attn_implementation",
    "routers", "experts", "experts_used",
)  # fmt: skip
"""Names of the options of `load_prepared`."""


def load_prepared(
    model: str,
    *,
    routers: Sequence[str] = (),
    experts: int | None = None,
    experts_used: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> LoadedModel:
    """As `load_model`, which takes the other options.

    Args:
        routers: declarations as text, see `routers.declare`.
        experts, experts_used: view a dense model as this many emergent experts a layer, of which a token uses so many.
        progress: told of (layers, total) while a dense model is split.
    Raises:
        TracerError: the model can't be loaded, or a declaration does not fit it.
    """
    from .routers.declare import declare_routers, read_router

    declared = [read_router(text) for text in routers]
    loaded = load_model(model, **options)
    if declared:
        declare_routers(loaded.model, declared)
    if experts is not None:
        from .routers.emergent import emergent_moe

        emergent_moe(loaded.model, experts, top_k=experts_used, progress=progress)
    return loaded

"""What has to hold of a model while it reads and writes: no training, no more tokens than it takes, no work that nobody
needs, and which tokens end a text."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def max_length(model: Any) -> int | None:
    """Longest sequence that the model takes, as far as its configuration says."""
    config = getattr(model, "config", None)
    return getattr(config.get_text_config(), "max_position_embeddings", None) if config is not None else None


def stop_token_ids(model: Any) -> list[int]:
    """Ids that end a generated sequence."""
    stop = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return [] if stop is None else [stop] if isinstance(stop, int) else list(stop)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Routers that add noise while training must not here."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def forward_options(model: Any) -> dict[str, Any]:
    """What spares the model work that a trace does not need: a cache, and the vocabulary at every
    position."""
    accepted = inspect.signature(model.forward).parameters
    wanted = {"use_cache": False, "logits_to_keep": 1}
    return {name: value for name, value in wanted.items() if name in accepted}

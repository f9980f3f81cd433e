"""What has to hold of a model while it reads: no training, and no more tokens than it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def max_length(model: Any) -> int | None:
    """Longest sequence that the model takes, as far as its configuration says."""
    config = getattr(model, "config", None)
    return getattr(config.get_text_config(), "max_position_embeddings", None) if config is not None else None


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Routers that add noise while training must not here."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)

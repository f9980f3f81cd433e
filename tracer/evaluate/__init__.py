"""What a steering profile does over a prompt set, beside its controls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .run import evaluate as evaluate

__getattr__ = lazily(__name__, {"evaluate": ".run"})

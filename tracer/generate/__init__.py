"""Text from a model, alone or while something records or steers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .batch import Sampling as Sampling
    from .text import generate as generate

__getattr__ = lazily(__name__, {"Sampling": ".batch", "generate": ".text"})

"""Finding the routers of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .find import find_routers as find_routers

__getattr__ = lazily(__name__, {"find_routers": ".find"})

"""Steering: rules that change routing while a model runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .profile import PerSequence as PerSequence
    from .profile import Steering as Steering

__getattr__ = lazily(__name__, {"PerSequence": ".profile", "Steering": ".profile"})

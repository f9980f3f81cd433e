"""One trace: from prompts to committed parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .trace import TraceSummary as TraceSummary
    from .trace import trace_prompts as trace_prompts

__getattr__ = lazily(__name__, {"TraceSummary": ".trace", "trace_prompts": ".trace"})

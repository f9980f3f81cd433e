"""Prompt sets: reading, checking and writing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .prompt import Prompt as Prompt
    from .prompt import PromptSetError as PromptSetError
    from .prompt_set import PromptSet as PromptSet

__getattr__ = lazily(__name__, {"Prompt": ".prompt", "PromptSet": ".prompt_set", "PromptSetError": ".prompt"})

"""Prompt sets: reading, checking and writing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .prompt_set import Prompt as Prompt
    from .prompt_set import PromptSet as PromptSet
    from .prompt_set import PromptSetError as PromptSetError

__getattr__ = lazily(
    __name__, {"Prompt": ".prompt_set", "PromptSet": ".prompt_set", "PromptSetError": ".prompt_set"}
)

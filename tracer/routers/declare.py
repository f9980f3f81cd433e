"""Routers declared for a model once, so that every later use of it finds them: tracing, steering, serving, checking."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .declaration import read_fields, to_text
from .declared import DeclaredRouter

_ATTRIBUTE = "_moescope_declared"


def declare_routers(model: nn.Module, routers: Sequence[DeclaredRouter]) -> None:
    """From now on these are the routers of this model, and no others; none given: those that are found by themselves.

    Raises:
        UnknownRouterError: a declaration matches no module, or says not where decisions are.
    """
    from .declared import declared_sites

    declared_sites(list(routers), dict(model.named_modules()))
    setattr(model, _ATTRIBUTE, tuple(routers))


def declared_for(model: nn.Module) -> tuple[DeclaredRouter, ...]:
    """What was declared for a model."""
    return getattr(model, _ATTRIBUTE, ())


def declared_texts(model: nn.Module) -> list[str]:
    """What was declared for a model as text, as far as text can hold it."""
    texts = (to_text(vars(router)) for router in declared_for(model))
    return [text for text in texts if text is not None]


def read_router(text: str) -> DeclaredRouter:
    """A declaration from text, see `declaration.read_fields`. Raises UnknownRouterError."""
    return DeclaredRouter(**read_fields(text))

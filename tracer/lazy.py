"""Names of a package that are loaded when they are first used, so that importing it imports no torch."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` for names that live in other modules.

    Args:
        package: `__name__` of the module whose `__getattr__` this is.
        homes: name → relative module, as in `{"Steering": ".profile"}`.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name], package), name)

    return load

"""Everything that moescope's tracer refuses to do, by name, each with a reason that fits on one line."""

from __future__ import annotations

from typing import Any

LONGEST = 2000
"""Characters of a message: what it quotes may be as long as a file."""


def said(value: Any, longest: int = 80) -> str:
    """A value as a message quotes it: cut, and a number of any length is no trouble."""
    text = "a very large number" if isinstance(value, int) and abs(value) >= 10**40 else repr(value)
    return text if len(text) <= longest else f"{text[:longest]} ..."


class TracerError(RuntimeError):
    """Base of all errors that the tracer raises on purpose."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message if len(message) <= LONGEST else f"{message[:LONGEST]} ...")


class NotMoEError(TracerError):
    """The model has no routed experts."""


class UnknownRouterError(TracerError):
    """The model has experts, but where their routing decisions pass is not known."""


class CompiledModelError(TracerError):
    """The model is compiled, so hooks would see nothing or the wrong call."""


class CaptureError(TracerError):
    """What was captured is not what was executed."""


class SteeringError(TracerError):
    """A steering rule that cannot be understood, or cannot be applied to this model."""

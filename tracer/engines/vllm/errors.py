"""What can go wrong with an engine as a whole."""

from ...errors import TracerError


class EngineError(TracerError):
    """The engine can't be started, refuses the model, or has ended."""

"""Everything that moescope's tracer refuses to do, by name, each with a reason that fits on one line."""


class TracerError(RuntimeError):
    """Base of all errors that the tracer raises on purpose."""


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

"""When a rule acts: which tokens of a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import SteeringError, said

FURTHEST = 2**31 - 1
"""Position that a span may name."""


@dataclass(frozen=True)
class PositionSpan:
    """Which tokens of a sequence a rule acts on; positions count from 0, padding left out."""

    phase: Literal["all", "prompt", "generation"] = "all"
    start: int = 0
    stop: int | None = None

    @classmethod
    def read(cls, value: Any) -> PositionSpan:
        """From "all", "prompt", "generation", a first position, or {"from": n, "to": m}."""
        if isinstance(value, str) and value in ("all", "prompt", "generation"):
            return cls(phase=value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= FURTHEST:
            return cls(start=value)
        if isinstance(value, Mapping) and set(value) <= {"from", "to", "phase"}:
            phase, start, stop = value.get("phase", "all"), value.get("from", 0), value.get("to")
            places = [start] if stop is None else [start, stop]
            whole = all(isinstance(x, int) and not isinstance(x, bool) and 0 <= x <= FURTHEST for x in places)
            if whole and stop is not None and stop <= start:
                raise SteeringError(
                    f"span holds no token: it goes from {start} to {stop}, which is not included"
                )
            if whole and phase in ("all", "prompt", "generation"):
                return cls(phase, start, stop)
        raise SteeringError(
            "span must be all, prompt, generation, a first position or {'from': n, 'to': m}, positions up to "
            f"{FURTHEST}, not {said(value)}"
        )

    def to_json(self) -> Any:
        if (self.start, self.stop) == (0, None):
            return self.phase
        data: dict[str, Any] = {"from": self.start}
        data |= {} if self.stop is None else {"to": self.stop}
        return data if self.phase == "all" else data | {"phase": self.phase}

    @property
    def everywhere(self) -> bool:
        return self.phase == "all" and self.start == 0 and self.stop is None

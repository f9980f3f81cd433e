"""A steering that is being edited, with the way back.

A draft is a name and rules; its JSON is a profile. Nothing here knows Streamlit or a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...tracer.errors import SteeringError
from ...tracer.steering.read import read_rules
from .edit import Rules
from .profiles import PROFILE_VERSION, profile

MOST_STEPS = 200


@dataclass(frozen=True)
class Draft:
    """The steering on the page."""

    rules: Rules = ()
    name: str = ""

    def to_json(self, model: Any = "") -> dict[str, Any]:
        """The profile of these rules."""
        return profile(self.name, str(model or ""), [rule.to_json() for rule in self.rules])

    @classmethod
    def from_json(cls, data: Any) -> Draft:
        """From a profile's JSON: bytes, text, or plain data.

        Raises:
            SteeringError: no profile, one of a newer version, or a rule that cannot be understood.
        """
        if isinstance(data, (bytes, str)):
            data = _parsed(data)
        rules = data if isinstance(data, list) else data.get("rules") if isinstance(data, Mapping) else None
        if not isinstance(rules, list):
            raise SteeringError("a steering profile is a JSON object with a list called rules")
        about = data if isinstance(data, Mapping) else {}
        version = about.get("version", PROFILE_VERSION)
        if not isinstance(version, int) or version > PROFILE_VERSION:
            raise SteeringError(
                f"this profile has version {version}; this moescope reads up to {PROFILE_VERSION}"
            )
        return cls(read_rules(rules), str(about.get("name") or "")[:200])


def _parsed(data: bytes | str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig") if isinstance(data, bytes) else data)
    except (ValueError, RecursionError) as error:
        raise SteeringError(f"this is not JSON: {error}") from None


@dataclass(frozen=True)
class History:
    """A draft, the drafts before it, and those that were undone."""

    now: Draft = Draft()
    past: tuple[Draft, ...] = ()
    future: tuple[Draft, ...] = ()

    def then(self, draft: Draft) -> History:
        """After an edit; one that changes nothing is no step."""
        if draft == self.now:
            return self
        return History(draft, (*self.past, self.now)[-MOST_STEPS:])

    def undo(self) -> History:
        if not self.past:
            return self
        return replace(self, now=self.past[-1], past=self.past[:-1], future=(self.now, *self.future))

    def redo(self) -> History:
        if not self.future:
            return self
        return replace(self, now=self.future[0], past=(*self.past, self.now), future=self.future[1:])

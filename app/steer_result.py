"""What two answers, base and steered, showed token by token.

Events come from the server in any interleaving of the sides; `Answers` keeps them and makes the tables behind
the figures. A position is the number of a generated token, from 0. KL is KL(base ‖ steered) of the next-token
distribution at that position of the text of one side, in nats: both models read the same text there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from ..store import RouterSpec
from .steer_history import Draft

Side = Literal["base", "steered"]
SIDES: tuple[Side, Side] = ("base", "steered")
Event = Mapping[str, Any]


@dataclass
class Answers:
    """One comparison, while it grows and after."""

    prompt: str
    draft: Draft
    """The steering that the steered side was given."""
    events: dict[Side, list[Event]] = field(default_factory=lambda: {side: [] for side in SIDES})
    done: Event | None = None
    first_s: float | None = None
    """Seconds from the request to its first token."""
    seconds: float = 0.0

    def add(self, event: Event) -> None:
        if event.get("done"):
            self.done = event
        else:
            self.events[event["side"]].append(event)

    def text(self, side: Side) -> str:
        return "".join(event["text"] for event in self.events[side])

    def ended(self, side: Side) -> bool:
        """Whether a side has no more to say: the sides take turns, so one that is two behind has stopped."""
        other: Side = "base" if side == "steered" else "steered"
        return self.done is not None or len(self.events[other]) - len(self.events[side]) > 1

    @property
    def identical(self) -> bool:
        """Whether both sides chose the same tokens."""
        base, steered = ([event["token_id"] for event in self.events[side]] for side in SIDES)
        return base == steered

    @property
    def untouched(self) -> bool:
        """Whether nothing at all differs: no token, no chosen expert, no distribution."""
        every = [event for side in SIDES for event in self.events[side]]
        return self.identical and all(event["kl"] == 0 and not event["changed"] for event in every)

    @property
    def parting(self) -> int | None:
        """The first position at which the texts differ; None where they don't."""
        base, steered = ([event["token_id"] for event in self.events[side]] for side in SIDES)
        for position, (a, b) in enumerate(zip(base, steered, strict=False)):
            if a != b:
                return position
        return None if len(base) == len(steered) else min(len(base), len(steered))

    def mean_kl(self, side: Side) -> float | None:
        known = [event["kl"] for event in self.events[side] if event["kl"] is not None]
        return sum(known) / len(known) if known else None

    def strip(self, side: Side) -> pa.Table:
        """One row a position of a side's text: position, token, kl, logprob, changed (routers whose chosen set
        of experts the steering changed), routers."""
        events = self.events[side]
        return pa.table(
            {
                "position": pa.array(range(len(events)), pa.int32()),
                "token": pa.array([event["token"] for event in events], pa.string()),
                "kl": pa.array([event["kl"] for event in events], pa.float64()),
                "logprob": pa.array([event["logprob"] for event in events], pa.float64()),
                "changed": pa.array([len(event["changed"]) for event in events], pa.int32()),
                "routers": pa.array([len(event["experts"]) for event in events], pa.int32()),
            }
        )

    def grid(self, side: Side, routers: list[RouterSpec]) -> pa.Table:
        """One row a position and router: position, token, stream, layer, changed, experts (of this side)."""
        rows = []
        for position, event in enumerate(self.events[side]):
            for spec in routers:
                name = str(spec.layer) if spec.stream == "decoder" else f"{spec.stream}.{spec.layer}"
                if name in event["experts"]:
                    rows.append(
                        {"position": position, "token": event["token"], "stream": spec.stream,
                         "layer": spec.layer, "changed": name in event["changed"],
                         "experts": ", ".join(map(str, event["experts"][name]))}
                    )  # fmt: skip
        return pa.Table.from_pylist(rows, schema=_GRID)

    def candidates(self, side: Side, position: int) -> pa.Table:
        """Likeliest next tokens of both models at a position of a side's text: token_id, token, base, steered
        (probabilities; null where it is not among the likeliest), by the larger of the two."""
        found: dict[int, dict[str, Any]] = {}
        for model, top in self.events[side][position].get("candidates", {}).items():
            for token_id, token, logprob in top:
                row = found.setdefault(token_id, {"token_id": token_id, "token": token})
                row[model] = 0.0 if logprob is None else math.exp(logprob)
        rows = sorted(found.values(), key=lambda row: -max(row.get("base") or 0, row.get("steered") or 0))
        return pa.Table.from_pylist(rows, schema=_CANDIDATES)


_GRID = pa.schema(
    [
        ("position", pa.int32()), ("token", pa.string()), ("stream", pa.string()), ("layer", pa.int32()),
        ("changed", pa.bool_()), ("experts", pa.string()),
    ]
)  # fmt: skip
_CANDIDATES = pa.schema(
    [("token_id", pa.int64()), ("token", pa.string()), ("base", pa.float64()), ("steered", pa.float64())]
)

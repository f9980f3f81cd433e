"""What two answers, base and steered, showed token by token.

Events come from the server in any interleaving of the sides; `Answers` keeps them and makes the tables behind
the figures. A position is the number of a token in its phase, prompt or answer, from 0. KL is KL(base ‖ steered) of
the distributions that predict the token there, in nats: both models read the same text before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from ...store import RouterSpec
from ..text.graphemes import joined
from .history import Draft

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
        """Whether nothing differs beyond rounding: no token, no chosen expert, no distribution by more than the KL
        between equal texts on the server's machine (`floor`)."""
        every = [event for side in SIDES for event in self.along(side)]
        return (
            self.identical and self.largest_kl <= self.floor and not any(event["changed"] for event in every)
        )

    @property
    def floor(self) -> float:
        """KL (nats) that rounding alone may show; 0 where the server does not say."""
        return (self.done or {}).get("kl_floor") or 0.0

    @property
    def largest_kl(self) -> float:
        """Along both texts; infinity where one is not finite."""
        every = [event["kl"] for side in SIDES for event in self.along(side)]
        return max((math.inf if kl is None else kl for kl in every), default=0.0)

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

    def along(self, side: Side) -> list[Event]:
        """All tokens of a side's text that something predicted, the prompt's first: its events, with `phase` and
        `position`. The prompt's come at the end of an answer."""
        told = (self.done or {}).get("prompt_positions") or []
        prompt: list[Event] = [
            {**event, "phase": "prompt", "experts": event["experts"][side], "logprob": event["logprob"][side]}
            for event in told
        ]
        answer = enumerate(self.events[side])
        return prompt + [{**event, "phase": "answer", "position": position} for position, event in answer]

    @property
    def prompt_note(self) -> str | None:
        """Why the prompt is not told of as a whole."""
        return (self.done or {}).get("prompt_note")

    def strip(self, side: Side) -> pa.Table:
        """One row a token of a side's text: column (from 0), phase, position, token, kl, logprob, changed (routers
        whose chosen set of experts the steering changed), routers, changes (those in words)."""
        rows = self.along(side)
        changes = self._changes(side)
        return pa.table(
            {
                "column": pa.array(range(len(rows)), pa.int32()),
                "phase": pa.array([row["phase"] for row in rows], pa.string()),
                "position": pa.array([row["position"] for row in rows], pa.int32()),
                "token": pa.array([row["token"] for row in rows], pa.string()),
                "kl": pa.array([row["kl"] for row in rows], pa.float64()),
                "logprob": pa.array([row["logprob"] for row in rows], pa.float64()),
                "changed": pa.array([len(row["changed"]) for row in rows], pa.int32()),
                "routers": pa.array([len(row["experts"]) for row in rows], pa.int32()),
                "changes": pa.array(changes, pa.string()),
            }
        )

    def _changes(self, side: Side) -> list[str]:
        """For each token which experts took whose places, layer by layer: `layer 2: 7 → 12`. Once the texts have
        parted the other model's choice is not known, and only the layers are named."""
        base, steered = self.along("base"), self.along("steered")
        parting = self.parting
        told = []
        for column, row in enumerate(self.along(side)):
            both = row["phase"] == "prompt" or parting is None or row["position"] <= parting
            if both and column < min(len(base), len(steered)):
                told.append(_exchanged(row["changed"], base[column]["experts"], steered[column]["experts"]))
            else:
                told.append(", ".join(f"layer {name}" for name in row["changed"]))
        return told

    def grid(self, side: Side, routers: list[RouterSpec]) -> pa.Table:
        """One row a token and router: column, phase, position, token, stream, layer, changed, experts (of this
        side)."""
        rows = []
        for column, event in enumerate(self.along(side)):
            for spec in routers:
                name = str(spec.layer) if spec.stream == "decoder" else f"{spec.stream}.{spec.layer}"
                if name in event["experts"]:
                    rows.append(
                        {"column": column, "phase": event["phase"], "position": event["position"],
                         "token": event["token"], "stream": spec.stream, "layer": spec.layer,
                         "changed": name in event["changed"],
                         "experts": ", ".join(map(str, event["experts"][name]))}
                    )  # fmt: skip
        return pa.Table.from_pylist(rows, schema=_GRID)

    def before(self, side: Side, column: int) -> str:
        """The text before a token of the strip."""
        rows = self.along(side)
        told = [row["token"] for row in rows if row["phase"] == "prompt"]
        start = self.prompt.removesuffix(joined(told)) if self.prompt.endswith(joined(told)) else ""
        answer = rows[len(told) : column]
        return start + joined(told[:column]) + "".join(row.get("text", row["token"]) for row in answer)

    def candidates(self, side: Side, column: int) -> pa.Table:
        """Likeliest next tokens of both models in a column of the strip: token_id, token, base, steered
        (probabilities; null where it is not among the likeliest), by the larger of the two."""
        found: dict[int, dict[str, Any]] = {}
        for model, top in self.along(side)[column].get("candidates", {}).items():
            for token_id, token, logprob in top:
                row = found.setdefault(token_id, {"token_id": token_id, "token": token})
                row[model] = 0.0 if logprob is None else math.exp(logprob)
        rows = sorted(found.values(), key=lambda row: -max(row.get("base") or 0, row.get("steered") or 0))
        return pa.Table.from_pylist(rows, schema=_CANDIDATES)


def _exchanged(changed: list[str], base: Event, steered: Event) -> str:
    """`layer 2: 7 → 12; layer 5: 3, 8 → 1, 9`."""
    parts = []
    for name in changed:
        out = [expert for expert in base[name] if expert not in steered[name]]
        new = [expert for expert in steered[name] if expert not in base[name]]
        gone, come = (", ".join(map(str, experts)) or "none" for experts in (out, new))
        parts.append(f"layer {name}: {gone} → {come}")
    return "; ".join(parts)


_GRID = pa.schema(
    [
        ("column", pa.int32()), ("phase", pa.string()), ("position", pa.int32()), ("token", pa.string()),
        ("stream", pa.string()), ("layer", pa.int32()), ("changed", pa.bool_()), ("experts", pa.string()),
    ]
)  # fmt: skip
_CANDIDATES = pa.schema(
    [("token_id", pa.int64()), ("token", pa.string()), ("base", pa.float64()), ("steered", pa.float64())]
)

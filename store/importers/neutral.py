"""The neutral format: one row for each chosen expert (or event), whatever it was recorded from.

docs/import.md describes the columns. Robots, vision models, time series, LLM routers: everything that has a
sequence, a step, a layer and a chosen expert can be explored.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImportRefused
from ..schema import RouterKey
from .build import Imported, write_trace
from .cells import Cells, is_missing
from .probabilities import SUM_TOLERANCE
from .rows import numbered_rows
from .sequences import Events, ImportedSequence

REQUIRED = ("sequence", "step", "layer", "expert")
SEQUENCE_COLUMNS = ("text", "language", "group", "parallel_id")
TOKEN_COLUMNS = ("token", "token_id", "phase", "special", "completion")
EVENT_COLUMNS = ("stream", "weight", "slot", "probabilities")
PHASES = ("prefill", "decode", "unknown")
LARGEST_WEIGHT = 60000
"""Gate weights are stored as float16."""


@dataclass
class _Step:
    row: int
    values: dict[str, Any]


@dataclass
class _Building:
    """One sequence while its rows come in."""

    row: int
    columns: dict[str, str]
    steps: dict[int, _Step] = field(default_factory=dict)
    choices: dict[RouterKey, dict[int, list[tuple[int, int, float | None]]]] = field(default_factory=dict)
    """Router → step → (slot, expert, weight)."""
    probabilities: dict[RouterKey, dict[int, np.ndarray]] = field(default_factory=dict)
    """Router → step → (E,)."""


def import_neutral(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, experts: int | None = None
) -> Imported:
    """Import a CSV, TSV, JSONL or Parquet file in the neutral format.

    Args:
        experts: number of experts of every router; without it, the largest id that occurs plus 1.
    Raises:
        ImportRefused: the message names file, row and column; nothing is written.
    """
    file = Path(path)
    reader = _Reader(file.name)
    for row, values in numbered_rows(file):
        reader.take(row, values)
    sequences = [reader.finish(name, building) for name, building in reader.sequences.items()]
    scored = reader.scored and _check_scored(sequences, file.name)
    notes = (
        [] if experts is not None or scored else ["the number of experts of a router is the largest id + 1"]
    )
    if not reader.weighted:
        notes.append("the file has no weights: views that need gate weights are empty")
    source = {"format": "neutral", "path": str(path)}
    return write_trace(
        sequences,
        out,
        source=source,
        experts=experts,
        notes=notes,
        scoring=reader.scoring if scored else "none",
    )


def _check_scored(sequences: list[ImportedSequence], name: str) -> bool:
    """Raises ImportRefused where some events of a router have probabilities and others don't, or another E."""
    sizes: dict[RouterKey, set[int | None]] = {}
    for sequence in sequences:
        for router, events in sequence.events.items():
            found = events.probabilities_NE
            sizes.setdefault(router, set()).add(None if found is None else found.shape[1])
            largest = int(events.experts.max(initial=-1))
            if found is not None and largest >= found.shape[1]:
                raise ImportRefused(
                    f"{name}, layer {router.layer}: expert {largest}, but there are {found.shape[1]} probabilities"
                )
    for router, found in sizes.items():
        if len(found) > 1:
            raise ImportRefused(
                f"{name}, {router}: probabilities for some events only, or not of the same experts: "
                "all or none"
            )
    return True


class _Reader:
    def __init__(self, name: str):
        self.cells = Cells(name)
        self.sequences: dict[str, _Building] = {}
        self.weighted = self.scored = False
        self.scoring = "softmax"
        self._has_weights: dict[RouterKey, tuple[bool, int]] = {}

    def take(self, row: int, values: dict[str, Any]) -> None:
        values = {column: None if is_missing(value) else value for column, value in values.items()}
        for column in REQUIRED:
            if values.get(column) is None:
                counted = {"count", "counts", "tokens_per_expert"} & set(values)
                hint = "; this looks like a table of counts: moescope import counts" if counted else ""
                raise self.cells.refuse(row, column, f"it is missing{hint}")
        name = self.cells.text(row, "sequence", values["sequence"])
        step = self.cells.whole(row, "step", values["step"])
        layer = self.cells.whole(row, "layer", values["layer"])
        stream = values.get("stream")
        router = RouterKey("decoder" if stream is None else self.cells.text(row, "stream", stream), layer)
        building = self.sequences.setdefault(name, _Building(row, {}))
        self._note_columns(row, building, values)
        self._note_token(row, building, step, values)
        choices = building.choices.setdefault(router, {}).setdefault(step, [])
        for choice in self._choices(row, router, values, len(choices)):
            if any(choice[1] == other[1] for other in choices):
                raise self.cells.refuse(row, "expert", f"expert {choice[1]} is chosen twice in one step")
            choices.append(choice)
        if values.get("probabilities") is not None:
            self._note_probabilities(row, building, router, step, values["probabilities"])

    def _note_probabilities(
        self, row: int, building: _Building, router: RouterKey, step: int, value: Any
    ) -> None:
        """Full router probabilities of an event; rows of the same event may repeat them."""
        self.scored = True
        listed = self._listed(value)
        if not isinstance(listed, list) or not listed:
            raise self.cells.refuse(row, "probabilities", "it must be a list, one number for each expert")
        found = np.array(
            [self.cells.number(row, "probabilities", p, largest=1 + SUM_TOLERANCE) for p in listed]
        )
        total = float(found.sum())
        if (found < 0).any() or total <= 0:
            raise self.cells.refuse(row, "probabilities", "they must be from 0 to 1, and not all 0")
        if abs(total - 1) > SUM_TOLERANCE:
            self.scoring = "sigmoid"
        by_step = building.probabilities.setdefault(router, {})
        if step in by_step and not np.array_equal(by_step[step], found):
            raise self.cells.refuse(row, "probabilities", "an earlier row of the same event says otherwise")
        by_step[step] = found

    def _choices(
        self, row: int, router: RouterKey, values: dict[str, Any], before: int
    ) -> list[tuple[int, int, float | None]]:
        experts, weights = self._listed(values["expert"]), self._listed(values.get("weight"))
        if not isinstance(experts, list):
            experts, weights = [experts], None if weights is None else [weights]
        if weights is not None and (not isinstance(weights, list) or len(weights) != len(experts)):
            raise self.cells.refuse(row, "weight", "there must be one weight for each expert")
        if not experts:
            return []
        known = self._has_weights.setdefault(router, (weights is not None, row))
        if known[0] != (weights is not None):
            raise self.cells.refuse(
                row,
                "weight",
                f"row {known[1]} of the same layer says otherwise: all or none of a layer",
            )
        self.weighted |= weights is not None
        slot = values.get("slot")
        first = before if slot is None else self.cells.whole(row, "slot", slot)
        found = []
        for i, expert in enumerate(experts):
            weight = (
                None
                if weights is None
                else self.cells.number(row, "weight", weights[i], largest=LARGEST_WEIGHT)
            )
            found.append((first + i, self.cells.whole(row, "expert", expert), weight))
        return found

    @staticmethod
    def _listed(value: Any) -> Any:
        """Lists come as JSON text in CSV files."""
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                return json.loads(value)
            except (ValueError, RecursionError):
                return value
        return value

    def _note_columns(self, row: int, building: _Building, values: dict[str, Any]) -> None:
        other = (*REQUIRED, *TOKEN_COLUMNS, *EVENT_COLUMNS)
        for column, value in values.items():
            if column in other or value is None or not isinstance(column, str):
                continue
            text = self.cells.text(row, column, value)
            if building.columns.setdefault(column, text) != text:
                was = building.columns[column]
                raise self.cells.refuse(
                    row, column, f"{text!r}, but an earlier row of the sequence says {was!r}"
                )

    def _note_token(self, row: int, building: _Building, step: int, values: dict[str, Any]) -> None:
        found = {
            column: self._token_value(row, column, values[column])
            for column in TOKEN_COLUMNS
            if values.get(column) is not None
        }
        known = building.steps.setdefault(step, _Step(row, {}))
        for column, value in found.items():
            if known.values.setdefault(column, value) != value:
                raise self.cells.refuse(row, column, f"row {known.row} of the same step says otherwise")

    def _token_value(self, row: int, column: str, value: Any) -> Any:
        if column == "token":
            return self.cells.text(row, column, value)
        if column == "token_id":
            return self.cells.whole(row, column, value)
        if column == "phase":
            if value not in PHASES:
                raise self.cells.refuse(row, column, f"{str(value)[:40]!r} is neither prefill nor decode")
            return value
        yes = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
        key = value.lower() if isinstance(value, str) else value
        if not isinstance(key, str | bool | int) or key not in yes:
            raise self.cells.refuse(row, column, f"{str(value)[:40]!r} is neither true nor false")
        return yes[key]

    def finish(self, name: str, building: _Building) -> ImportedSequence:
        prompt: dict[str, Any] = {"prompt_id": name}
        prompt |= {c: building.columns[c] for c in SEQUENCE_COLUMNS if c in building.columns}
        prompt["tags"] = {c: v for c, v in building.columns.items() if c not in SEQUENCE_COLUMNS}
        steps = sorted(building.steps)
        tokens: dict[str, list[Any]] = {"position": steps}
        for column in TOKEN_COLUMNS:
            tokens[column] = [building.steps[step].values.get(column) for step in steps]
        if "text" not in prompt and any(tokens["token"]):
            prompt["text"] = "".join(token or "" for token in tokens["token"])
        sequence = ImportedSequence(prompt, tokens)
        for router, by_step in building.choices.items():
            known = building.probabilities.get(router)
            if known is not None and (
                set(known) != set(by_step) or len({len(p) for p in known.values()}) > 1
            ):
                raise self.cells.refuse(
                    building.row,
                    "probabilities",
                    f"layer {router.layer}: each event needs them, of the same experts",
                )
            sequence.events[router] = _events(by_step, known)
        return sequence


def _events(
    by_step: dict[int, list[tuple[int, int, float | None]]], probabilities: dict[int, np.ndarray] | None
) -> Events:
    """Choices in descending weight; equal weights, or none, in the order of their slots."""
    steps = sorted(by_step)
    ordered = [sorted(by_step[step], key=lambda c: (-(c[2] or 0.0), c[0])) for step in steps]
    flat = [choice for choices in ordered for choice in choices]
    weighted = bool(flat) and flat[0][2] is not None
    return Events(
        position=np.array(steps, np.int64),
        experts=np.array([expert for _, expert, _ in flat], np.int64),
        lengths=np.array([len(choices) for choices in ordered], np.int64),
        weights=np.array([w for _, _, w in flat], np.float32) if weighted else None,
        probabilities_NE=None if probabilities is None else np.stack([probabilities[step] for step in steps]),
    )

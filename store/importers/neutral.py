"""The neutral format: one row for each chosen expert (or event), whatever it was recorded from.

docs/import.md describes the columns. Robots, vision models, time series, LLM routers: everything that has a
sequence, a step, a layer and a chosen expert can be explored.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImportRefused
from .build import Events, Imported, ImportedSequence, Router, storable, write_trace
from .rows import numbered_rows

REQUIRED = ("sequence", "step", "layer", "expert")
SEQUENCE_COLUMNS = ("text", "language", "group", "parallel_id")
TOKEN_COLUMNS = ("token", "token_id", "phase", "special", "completion")
EVENT_COLUMNS = ("stream", "weight", "slot")
LARGEST = 2**31 - 1


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
    choices: dict[Router, dict[int, list[tuple[int, int, float | None]]]] = field(default_factory=dict)
    """Router → step → (slot, expert, weight)."""


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
    notes = [] if experts is not None else ["the number of experts of a router is the largest id + 1"]
    if not reader.weighted:
        notes.append("the file has no weights: views that need gate weights are empty")
    source = {"format": "neutral", "path": str(path)}
    return write_trace(sequences, out, source=source, experts=experts, notes=notes)


class _Reader:
    def __init__(self, name: str):
        self.name = name
        self.sequences: dict[str, _Building] = {}
        self.weighted = False
        self._has_weights: dict[Router, tuple[bool, int]] = {}

    def _refuse(self, row: int, column: str, message: str) -> ImportRefused:
        return ImportRefused(f"{self.name}, row {row}, column {column}: {message}")

    def take(self, row: int, values: dict[str, Any]) -> None:
        for column in REQUIRED:
            if values.get(column) is None:
                raise self._refuse(row, column, "it is missing")
        name = self._text(row, "sequence", values["sequence"])
        step = self._whole(row, "step", values["step"])
        layer = self._whole(row, "layer", values["layer"])
        stream = values.get("stream")
        router = (layer, "decoder" if stream is None else self._text(row, "stream", stream))
        building = self.sequences.setdefault(name, _Building(row, {}))
        self._note_columns(row, building, values)
        self._note_token(row, building, step, values)
        choices = building.choices.setdefault(router, {}).setdefault(step, [])
        for choice in self._choices(row, router, values, len(choices)):
            if any(choice[1] == other[1] for other in choices):
                raise self._refuse(row, "expert", f"expert {choice[1]} is chosen twice in one step")
            choices.append(choice)

    def _choices(
        self, row: int, router: Router, values: dict[str, Any], before: int
    ) -> list[tuple[int, int, float | None]]:
        experts, weights = self._listed(values["expert"]), self._listed(values.get("weight"))
        if not isinstance(experts, list):
            experts, weights = [experts], None if weights is None else [weights]
        if weights is not None and (not isinstance(weights, list) or len(weights) != len(experts)):
            raise self._refuse(row, "weight", "there must be one weight for each expert")
        known = self._has_weights.setdefault(router, (weights is not None, row))
        if known[0] != (weights is not None):
            raise self._refuse(row, "weight", f"row {known[1]} of the same layer says otherwise: all or none")
        self.weighted |= weights is not None
        slot = values.get("slot")
        first = before if slot is None else self._whole(row, "slot", slot)
        found = []
        for i, expert in enumerate(experts):
            weight = None if weights is None else self._number(row, "weight", weights[i])
            found.append((first + i, self._whole(row, "expert", expert), weight))
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
            text = self._text(row, column, value)
            if building.columns.setdefault(column, text) != text:
                was = building.columns[column]
                raise self._refuse(row, column, f"{text!r}, but an earlier row of the sequence says {was!r}")

    def _note_token(self, row: int, building: _Building, step: int, values: dict[str, Any]) -> None:
        found = {
            column: self._token_value(row, column, values[column])
            for column in TOKEN_COLUMNS
            if values.get(column) is not None
        }
        known = building.steps.setdefault(step, _Step(row, {}))
        for column, value in found.items():
            if known.values.setdefault(column, value) != value:
                raise self._refuse(row, column, f"row {known.row} of the same step says otherwise")

    def _token_value(self, row: int, column: str, value: Any) -> Any:
        if column == "token":
            return self._text(row, column, value)
        if column == "token_id":
            return self._whole(row, column, value)
        if column == "phase":
            if value not in ("prefill", "decode"):
                raise self._refuse(row, column, f"{str(value)[:40]!r} is neither prefill nor decode")
            return value
        yes = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
        key = value.lower() if isinstance(value, str) else value
        if not isinstance(key, str | bool | int) or key not in yes:
            raise self._refuse(row, column, f"{str(value)[:40]!r} is neither true nor false")
        return yes[key]

    def _text(self, row: int, column: str, value: Any) -> str:
        if isinstance(value, list | dict | bytes):
            raise self._refuse(row, column, "it must be text or a number")
        return storable(value, f"{self.name}, row {row}, column {storable_name(column)}")

    def _whole(self, row: int, column: str, value: Any) -> int:
        number = value
        if isinstance(value, str):
            try:
                number = int(value) if len(value) < 20 else None
            except ValueError:
                number = None
        elif isinstance(value, float):
            number = int(value) if value.is_integer() else None
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= LARGEST:
            shown = repr(value)[:40]
            raise self._refuse(row, column, f"{shown} is not a whole number from 0 to {LARGEST}")
        return number

    def _number(self, row: int, column: str, value: Any) -> float:
        number = math.nan
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                number = float(value)
            except (ValueError, OverflowError):
                number = math.nan
        if not math.isfinite(number) or abs(number) > 60000:
            raise self._refuse(row, column, f"{repr(value)[:40]} is not a finite number")
        return number

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
            sequence.events[router] = _events(by_step)
        return sequence


def storable_name(column: str) -> str:
    return column.encode("utf-8", "replace").decode()


def _events(by_step: dict[int, list[tuple[int, int, float | None]]]) -> Events:
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
    )

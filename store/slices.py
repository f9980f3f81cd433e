"""Slices: named selections of prompts, tokens and experts, kept with the library in `slices.json`.

A slice of prompts holds conditions, as `where` of every view, so it may fit several traces: it is offered where a trace
has all its columns and values. One that names single prompts fits its own recording alone. Experts are numbers of
one model's routers: they are offered on traces of the same weights alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from .errors import StoreError
from .files.whole import write_whole
from .library import fingerprint, model_name
from .schema import Cell
from .trace import Trace

FILE = "slices.json"
VERSION = 1
MOST_NAME = 80


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A named selection."""

    name: str
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Column or tag → the values that are let through; empty for all prompts."""
    tokens: str = "all"
    """Kind of tokens, as the app's bar calls it."""
    experts: Sequence[Cell] = ()
    model: str = ""
    """Fingerprint of the weights (their name where there is none) that the experts belong to."""
    trace: str = ""
    """Fingerprint of the recording it was made on."""

    def fits(self, trace: Trace) -> bool:
        """Whether it means something on a trace."""
        if self.experts:
            sizes = {spec.key: spec.num_experts for spec in trace.routers}
            known = all(cell.expert < sizes.get(cell.router, 0) for cell in self.experts)
            return known and self.model == weights_of(trace)
        if "prompt_id" in self.where and self.trace != fingerprint(trace):
            return False
        tags = trace.tags()
        return all(
            column == "prompt_id" or set(values) <= set(tags.get(column, ()))
            for column, values in self.where.items()
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError, ValueError where the data is no slice."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        known["experts"] = tuple(Cell(str(s), int(layer), int(e)) for s, layer, e in data.get("experts", ()))
        known["where"] = {
            str(key): [str(value) for value in values] for key, values in data.get("where", {}).items()
        }
        return cls(**known)


def weights_of(trace: Trace) -> str:
    """What tells one model's experts from another's."""
    return str(trace.manifest.model.get("weights_fingerprint") or model_name(trace))


def load_slices(library: Path) -> list[Slice]:
    """The slices of a library by name. Raises StoreError where their file can't be read."""
    path = library / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] > VERSION:
            raise StoreError(f"{path.name} was written by a newer moescope")
        return sorted((Slice.from_json(one) for one in data["slices"]), key=lambda one: one.name)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: not a list of slices: {error}") from error


def save_slice(library: Path, made: Slice) -> Slice:
    """Keep a slice; one of that name is replaced.

    Raises:
        StoreError: an empty or too long name, nothing selected, or a file that can't be read.
        OSError: it can't be written.
    """
    made = replace(made, name=made.name.strip())
    if not made.name or len(made.name) > MOST_NAME:
        raise StoreError(f"a slice needs a name of 1 to {MOST_NAME} characters")
    if not made.where and made.tokens == "all" and not made.experts:
        raise StoreError("nothing is selected: filter prompts or tokens, or choose experts, first")
    kept = [one for one in load_slices(library) if one.name != made.name]
    _write(library, [*kept, made])
    return made


def delete_slice(library: Path, name: str) -> None:
    """Remove a slice. Raises StoreError, OSError."""
    _write(library, [one for one in load_slices(library) if one.name != name])


def _write(library: Path, slices: Sequence[Slice]) -> None:
    library.mkdir(parents=True, exist_ok=True)
    data = {"version": VERSION, "slices": [asdict(one) for one in slices]}
    write_whole(library / FILE, json.dumps(data, ensure_ascii=False, indent=1))

"""Tables and arrays of counts: how often each expert of each layer was chosen, without the single events.

A table has a row for each count (`sequence` or `step`, `layer`, `expert`, `count`) or, with `tokens_per_expert`, for
each layer. Arrays (`count_arrays`) come as NumPy or torch files, llama.cpp's importance matrices as GGUF
(`gguf_counts`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImportRefused
from .build import Imported
from .cells import Cells
from .count_arrays import npz_counts, torch_counts
from .count_steps import CountArray, write_counts
from .gguf_counts import gguf_counts
from .rows import numbered_rows

ALIASES = {
    "sequence": ("sequence", "prompt_id", "step"),
    "layer": ("layer", "layer_id", "layer_idx"),
    "expert": ("expert", "expert_id", "expert_idx"),
    "count": ("count", "counts"),
    "tokens": ("tokens", "num_tokens"),
    "weight_sum": ("weight_sum", "gate_sum"),
    "tokens_per_expert": ("tokens_per_expert",),
}
LABELS = ("language", "group", "parallel_id", "text")
LARGEST_CELLS = 1 << 28


def import_counts(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    experts: int | None = None,
    layers: Sequence[int] | None = None,
    top_k: int | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Imported:
    """Import counts: a CSV, TSV, JSON, JSONL or Parquet table, `.npz` or `.pt` arrays, or an imatrix `.gguf`.

    Args:
        experts: number of experts of every router; without it, the largest id that occurs plus 1.
        layers: numbers of the layers of arrays; without it 0, 1, 2, ...
        top_k: k, where the file doesn't say how many tokens its counts are of: tokens = counts / k.
        labels: column of the sequences (`language`, `group`, any tag) → its value for each, in the order of the file.
    Raises:
        ImportRefused: the message names file, row and column; nothing is written.
    """
    file = Path(path)
    readers = {".npz": npz_counts, ".pt": torch_counts, ".gguf": gguf_counts}
    read = readers.get(file.suffix.lower())
    counts = _table(file) if read is None else read(file)
    for column, values in (labels or {}).items():
        _label(counts, column, list(values), file.name)
    source = {"format": "counts", "path": str(path)}
    return write_counts(counts, out, source=source, layers=layers, top_k=top_k, experts=experts)


def _label(counts: CountArray, column: str, values: list[str], name: str) -> None:
    if len(values) != len(counts.prompts):
        raise ImportRefused(
            f"{name}: {len(values)} labels are given for {column}, but there are {len(counts.prompts)} sequences"
        )
    named = len(set(values)) == len(values) and all(prompt.get("unnamed") for prompt in counts.prompts)
    for prompt, value in zip(counts.prompts, values, strict=True):
        if column in LABELS:
            prompt[column] = value
        else:
            prompt.setdefault("tags", {})[column] = value
        if named:
            prompt["prompt_id"] = value
            del prompt["unnamed"]


class _Table:
    """Cells of a table of counts, summed up by (sequence, layer, expert)."""

    def __init__(self, name: str):
        self.cells = Cells(name)
        self.prompts: dict[str, dict[str, Any]] = {}
        self.count: dict[tuple[str, int, int], int] = {}
        self.weight: dict[tuple[str, int, int], float] = {}
        self.tokens: dict[tuple[str, int], int] = {}
        self.single = False
        """Whether rows are choices: there is no column of counts."""
        self.counted = False
        """Whether rows have counts."""
        self.widths: set[int] = set()
        """Lengths of the lists of counts."""

    def take(self, row: int, values: dict[str, Any]) -> None:
        found = {name: _first(values, names) for name, names in ALIASES.items()}
        sequence = "all" if found["sequence"] is None else self.cells.text(row, "sequence", found["sequence"])
        self._prompt(row, sequence, values)
        if found["tokens_per_expert"] is not None:
            self._listed(row, sequence, found)
            return
        for column in ("layer", "expert"):
            if found[column] is None:
                raise self.cells.refuse(row, column, "it is missing")
        layer = self.cells.whole(row, "layer", found["layer"])
        expert = self.cells.whole(row, "expert", found["expert"])
        key = sequence, layer, expert
        named = self.counted or any(name in values for name in ALIASES["count"])
        if found["count"] is None and named:
            raise self.cells.refuse(row, "count", "it is empty")
        if found["count"] is not None and self.single:
            raise self.cells.refuse(row, "count", "earlier rows have none: give it in all rows or none")
        if found["count"] is None:
            self.single = True
            self.count[key] = self.count.get(key, 0) + 1
        elif key in self.count:
            raise self.cells.refuse(row, "count", f"layer {layer}, expert {expert} has a count already")
        else:
            self.counted = True
            self.count[key] = self.cells.whole(row, "count", found["count"], largest=2**63 - 1)
        self._more(row, key, found)

    def _listed(self, row: int, sequence: str, found: dict[str, Any]) -> None:
        """A row with the counts of all experts of a layer, or of all layers."""
        by_layer = found["tokens_per_expert"]
        if isinstance(by_layer, dict):
            pairs = list(by_layer.items())
        elif isinstance(by_layer, list) and by_layer and all(isinstance(item, list) for item in by_layer):
            pairs = list(enumerate(by_layer))
        else:
            pairs = [(0 if found["layer"] is None else found["layer"], by_layer)]
        for number, count_E in pairs:
            layer = self.cells.whole(row, "layer", number)
            if not isinstance(count_E, list):
                raise self.cells.refuse(
                    row, "tokens_per_expert", "it must be a list, one count for each expert"
                )
            self.widths.add(len(count_E))
            for expert, count in enumerate(count_E):
                key = sequence, layer, expert
                if key in self.count:
                    raise self.cells.refuse(row, "tokens_per_expert", f"layer {layer} has counts already")
                self.count[key] = self.cells.whole(row, "tokens_per_expert", count, largest=2**63 - 1)
            if found["weight_sum"] is not None:
                raise self.cells.refuse(
                    row, "weight_sum", "it can't be given with tokens_per_expert: write one row per expert"
                )
            self._more(row, (sequence, layer, 0), found)

    def _more(self, row: int, key: tuple[str, int, int], found: dict[str, Any]) -> None:
        if found["weight_sum"] is not None:
            weight = self.cells.number(row, "weight_sum", found["weight_sum"], largest=1e30)
            # Rows that are choices add up, as their number does.
            self.weight[key] = weight + (self.weight.get(key, 0.0) if self.single else 0.0)
        if found["tokens"] is not None:
            tokens = self.cells.whole(row, "tokens", found["tokens"], largest=2**63 - 1)
            if self.tokens.setdefault(key[:2], tokens) != tokens:
                raise self.cells.refuse(row, "tokens", f"an earlier row says {self.tokens[key[:2]]}")

    def _prompt(self, row: int, sequence: str, values: dict[str, Any]) -> None:
        known = self.prompts.setdefault(sequence, {"prompt_id": sequence, "tags": {}})
        used = {name for names in ALIASES.values() for name in names}
        for column, value in values.items():
            if column in used or value is None:
                continue
            text = self.cells.text(row, column, value)
            home = known if column in LABELS else known["tags"]
            if home.setdefault(column, text) != text:
                raise self.cells.refuse(
                    row, column, f"{text!r}, but an earlier row of the sequence says {home[column]!r}"
                )

    def array(self) -> CountArray:
        if len(self.widths) > 1:
            raise ImportRefused(
                f"{self.cells.name}: tokens_per_expert has lists of {sorted(self.widths)[:5]} experts; all must have "
                "one length: import layers with other numbers of experts separately"
            )
        sequences = {name: at for at, name in enumerate(self.prompts)}
        layers = sorted({layer for _, layer, _ in self.count})
        experts = 1 + max((expert for _, _, expert in self.count), default=-1)
        shape = len(sequences), len(layers), experts
        if int(np.prod([float(n) for n in shape])) > LARGEST_CELLS:
            raise ImportRefused(f"{self.cells.name}: {shape} sequences, layers and experts are too many")
        at_layer = {layer: at for at, layer in enumerate(layers)}
        count_SLE = np.zeros(shape, np.int64)
        for (sequence, layer, expert), count in self.count.items():
            count_SLE[sequences[sequence], at_layer[layer], expert] = count
        weight_SLE = tokens_SL = None
        if self.weight:
            if any(key not in self.weight for key, count in self.count.items() if count):
                raise ImportRefused(
                    f"{self.cells.name}: weight_sum is given for some counts only: all or none"
                )
            weight_SLE = np.zeros(shape)
            for (sequence, layer, expert), value in self.weight.items():
                weight_SLE[sequences[sequence], at_layer[layer], expert] = value
        if self.tokens:
            tokens_SL = np.zeros(shape[:2], np.int64)
            for (sequence, layer), tokens in self.tokens.items():
                tokens_SL[sequences[sequence], at_layer[layer]] = tokens
        notes = ["there is no column count: each row is counted as one choice"] if self.single else []
        return CountArray(list(self.prompts.values()), count_SLE, weight_SLE, tokens_SL, layers, notes=notes)


def _first(values: dict[str, Any], names: Sequence[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _table(path: Path) -> CountArray:
    table = _Table(path.name)
    for row, values in numbered_rows(path):
        table.take(row, values)
    if not table.count:
        raise ImportRefused(f"{path.name}: it holds no count")
    return table.array()

"""Which groups a trace's prompts fall into: the combinations of their values in a few columns.

Columns are taken in turn (language, group, then tags, those with few values first) as long as the combinations that
occur stay few enough for their sums to be small. A question about a column that was not taken reads all rollups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..errors import StoreError, UnknownColumn
from ..files.manifest import PartEntry
from ..files.tables import read_table
from ..read.passes import read_ahead
from ..read.selection import PromptColumns
from ..read.trace_parts import TraceParts
from ..schema import RouterSpec

MOST_CELLS = 256
MOST_SUMS = 1 << 23
"""Groups × experts of all routers."""
_FIRST = ("language", "group")
_NEVER = ("parallel_id", "prompt_id", "picture")
"""Columns with a value of its own for each prompt or text."""

Value = str | None


@dataclass(frozen=True)
class Cells:
    """The groups of a trace's prompts."""

    columns: tuple[str, ...]
    values: tuple[tuple[Value, ...], ...]
    """G combinations of values, one for each column."""
    of_part: dict[str, np.ndarray]
    """Part → number of the group of each of its prompts."""


def find_cells(trace: TraceParts, by: Sequence[str] | None) -> Cells:
    """Read the prompts' columns (not their texts) and group them.

    Args:
        by: the columns to take; None chooses them as the module says.
    Raises:
        UnknownColumn: no prompt has such a column.
        StoreError: the columns given have too many combinations.
    """
    most = _most_cells(trace.routers)
    values, lengths = _values(trace, by, most)
    if by is None:
        tags = sorted((name for name in values if name not in _FIRST), key=lambda name: len(values[name][0]))
        order = [name for name in (*_FIRST, *tags) if name in values]
    else:
        order = list(dict.fromkeys(by))
    taken, code_P = [], np.zeros(sum(lengths.values()), np.int64)
    for name in order:
        names, value_P = values[name]
        found, joint_P = np.unique(code_P * (len(names) + 1) + value_P, return_inverse=True)
        if len(found) <= most:
            taken, code_P = [*taken, name], joint_P
        elif by is not None:
            raise StoreError(
                f"{', '.join(by)} have {len(found):,} combinations; sums are kept of {most:,} at most: "
                "name fewer columns"
            )
    firsts = np.unique(code_P, return_index=True)[1].tolist()
    cells = tuple(tuple(values[name][0][values[name][1][at]] for name in taken) for at in firsts)
    ends = np.cumsum(list(lengths.values()))[:-1]
    return Cells(tuple(taken), cells, dict(zip(lengths, np.split(code_P, ends), strict=True)))


def _most_cells(routers: Sequence[RouterSpec]) -> int:
    experts = sum(spec.num_experts for spec in routers)
    return max(1, min(MOST_CELLS, MOST_SUMS // max(1, experts)))


def _values(
    trace: TraceParts, by: Sequence[str] | None, most: int
) -> tuple[dict[str, tuple[list[Value], np.ndarray]], dict[str, int]]:
    """By column, its values (None among them) and the number of each prompt's; and the prompts of each part. A column
    with more than `most` values is dropped as soon as that is seen, unless it is in `by`."""
    numbers: dict[str, dict[Value, int]] = {}
    pieces: dict[str, dict[str, np.ndarray]] = {}
    dropped, lengths = set[str](), dict[str, int]()

    def load(entry: PartEntry) -> tuple[PartEntry, dict[str, pa.Array]]:
        return entry, _columns(trace, entry, by)

    for entry, columns in read_ahead(trace, trace.parts, load, lambda entry: entry.files["prompts"].bytes):
        lengths[entry.name] = entry.prompts
        for name, column in columns.items():
            if name in dropped:
                continue
            known = numbers.setdefault(name, {None: 0})
            pieces.setdefault(name, {})[entry.name] = _numbered(column, known)
            if len(known) > most + 1 and by is None:
                dropped.add(name)
                del numbers[name], pieces[name]
    missing = [name for name in by or () if name not in numbers]
    if missing:
        raise UnknownColumn(
            f"the prompts have no column or tag {missing[0]!r}; they have: {', '.join(sorted(numbers))}"
        )
    found = {}
    for name, of_part in pieces.items():
        parts = [of_part.get(part, np.zeros(count, np.int64)) for part, count in lengths.items()]
        found[name] = list(numbers[name]), np.concatenate(parts)
    return found, lengths


def _columns(trace: TraceParts, entry: PartEntry, by: Sequence[str] | None) -> dict[str, pa.Array]:
    """Columns of a part's prompts that can be grouped by."""
    own = [*_FIRST, *(name for name in _NEVER[:2] if name in (by or ()))]
    table = PromptColumns(read_table(trace.folder, entry, "prompts", [*own, "tags"], threads=False))
    names = [name for name in table.names() if name in own or name not in _NEVER]
    return {name: table.column(name) for name in names}


def _numbered(column: pa.Array, known: dict[Value, int]) -> np.ndarray:
    """Numbers of values; new ones are added to `known`."""
    coded = column.dictionary_encode(null_encoding="encode")
    at = [known.setdefault(value, len(known)) for value in coded.dictionary.to_pylist()]
    return np.asarray(at, np.int64)[np.asarray(coded.indices)]

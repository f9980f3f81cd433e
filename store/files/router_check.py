"""Whether the files of a part are about the routers that the manifest names."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ..arrow import pc
from ..schema import RouterKey, RouterSpec
from .damage import Problem, damaged, told_as_damage
from .folder import Folder
from .manifest import PartEntry
from .tables import read_table

TABLE = "rollups"


def check_routers(folder: Folder, entry: PartEntry, routers: Sequence[RouterSpec]) -> list[Problem]:
    """Compare each rollup row's layer, stream and number of experts with its router in the manifest. A checksum of the
    manifest says that nobody changed it; this says that it was right, also where it has none."""
    experts = {spec.key: spec.num_experts for spec in routers}
    with told_as_damage(folder, entry, TABLE):
        rows = read_table(folder, entry, TABLE, ["layer", "stream", "experts", "count"])
        for key, found in _experts_of(rows):
            if key not in experts:
                return [
                    _problem(entry, f"it has rows of {key}, which is not a router in {folder.url}/trace.json")
                ]
            if found is not None and found != experts[key]:
                reason = f"{key} has {found:,} experts there, {experts[key]:,} in trace.json"
                return [_problem(entry, reason)]
    return []


def _experts_of(rows: pa.Table) -> list[tuple[RouterKey, int | None]]:
    """Router and number of experts as they occur; the number is unknown where a row lists its experts."""
    lengths = pc.if_else(pc.is_null(rows["experts"]), pc.list_value_length(rows["count"]), None)
    table = pa.table({"layer": rows["layer"], "stream": rows["stream"].cast(pa.string()), "experts": lengths})
    found = table.group_by(["layer", "stream", "experts"]).aggregate([])
    return [(RouterKey(row["stream"], row["layer"]), row["experts"]) for row in found.to_pylist()]


def _problem(entry: PartEntry, reason: str) -> Problem:
    return Problem(entry.name, entry.path(TABLE), str(damaged(entry, TABLE, reason)))

"""The expert sheet of a trace: what weights and outputs say of each expert (`moescope weigh`).

It lies beside the trace's other tables: one Parquet file a router, and a list of its own, `experts/sheet.json`,
which is replaced as a whole after the file that it newly lists is durable. So a sheet can be added to a finished
trace, an interrupted one goes on after its last router, and a trace without one reads as before.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import DamagedPart, StoreError
from .files.folder import Folder, open_folder

SHEET_NAME = "experts/sheet.json"
SHEET_VERSION = 1

_NUMBERS = pa.list_(pa.float64())

EXPERT_SHEET = pa.schema(
    [
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("stream", pa.string(), nullable=False),
        pa.field("expert", pa.int32(), nullable=False),
        ("parameters", pa.int64()),
        ("bytes", pa.int64()),
        ("matrices", pa.list_(pa.string())),
        ("norms", _NUMBERS),
        ("outliers", _NUMBERS),
        ("router_norm", pa.float64()),
        ("tokens", pa.int64()),
        ("frequency", pa.float64()),
        ("gate_sum", pa.float64()),
        ("reap", pa.float64()),
        ("easy_ep", pa.float64()),
        ("active_share", pa.float64()),
        ("bits", pa.list_(pa.int32())),
        ("rtn_error", _NUMBERS),
        ("output_similarity", _NUMBERS),
        ("router_cosine", _NUMBERS),
        ("block_change", pa.float64()),
        ("energy_rank", pa.list_(pa.int32())),
        ("energy", _NUMBERS),
    ]
)
"""Columns of the sheet, one row an expert; docs/trace-format.md says what they mean. What was not measured is null."""


def read_sheet_list(folder: Folder) -> dict[str, Any] | None:
    """`experts/sheet.json`: version, settings and routers; None where the trace has no sheet.

    Raises:
        StoreError: it can't be read, or a newer moescope wrote it.
    """
    try:
        data = json.loads(folder.read(SHEET_NAME))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreError(f"{folder.url}/{SHEET_NAME} is not valid JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("version"), int) or "routers" not in data:
        raise StoreError(f"{folder.url}/{SHEET_NAME} is damaged: run moescope weigh again")
    if data["version"] > SHEET_VERSION:
        raise StoreError(
            f"{folder.url}/{SHEET_NAME} has version {data['version']}; this moescope reads up to {SHEET_VERSION}"
        )
    return data


def expert_sheet(trace: Any, router: int | None = None) -> pa.Table | None:
    """The expert sheet of an opened trace, by layer and expert; None where it has none.

    Args:
        trace: a `Trace`, or anything with its `url`.
        router: only the rows of this one, by its number in the manifest's `routers`.
    Raises:
        StoreError: the list can't be read.
        DamagedPart: a listed file is missing or changed.
    """
    folder = open_folder(trace.url)
    listed = read_sheet_list(folder)
    entries = [] if listed is None else listed["routers"]
    wanted = [entry for entry in entries if router is None or entry["router"] == router]
    if not wanted:
        return None
    return pa.concat_tables([_rows(folder, entry) for entry in wanted]).combine_chunks()


def _rows(folder: Folder, entry: dict[str, Any]) -> pa.Table:
    path = f"experts/{entry['name']}.parquet"
    try:
        data = folder.read(path)
    except OSError as error:
        raise DamagedPart(entry["name"], f"{folder.url}/{path} can't be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise DamagedPart(entry["name"], f"{folder.url}/{path} has changed since it was written: weigh again")
    table = pq.read_table(io.BytesIO(data))
    missing = [name for name in EXPERT_SHEET.names if name not in table.column_names]
    for name in missing:
        table = table.append_column(name, pa.nulls(table.num_rows, EXPERT_SHEET.field(name).type))
    return table.select(EXPERT_SHEET.names).cast(EXPERT_SHEET)


def write_router_rows(
    folder: Folder, router: int, rows: Sequence[dict[str, Any]], settings: dict[str, Any]
) -> None:
    """Commit the rows of one router; those that it had before are replaced.

    Args:
        router: its number in the manifest's `routers`.
        rows: one dict of `EXPERT_SHEET`'s columns for each expert.
        settings: of the whole sheet; a sheet that was made with others starts anew.
    Raises:
        OSError: the folder can't be written.
    """
    table = pa.Table.from_pylist(list(rows), schema=EXPERT_SHEET)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue()
    name = f"part-{router:05d}"
    folder.put(f"experts/{name}.parquet", data)
    listed = read_sheet_list(folder)
    if listed is None or listed["settings"] != settings:
        listed = {"version": SHEET_VERSION, "settings": settings, "routers": []}
    entry = {"name": name, "router": router, "rows": table.num_rows, "bytes": len(data)}
    entry["sha256"] = hashlib.sha256(data).hexdigest()
    others = [one for one in listed["routers"] if one["router"] != router]
    listed["routers"] = sorted([*others, entry], key=lambda one: one["router"])
    folder.put(SHEET_NAME, (json.dumps(listed, indent=1) + "\n").encode())

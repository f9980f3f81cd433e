"""A part under other keys: the same rows, with its prompts counted from another number."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files.damage import check_sha256, told_as_damage
from ..files.folder import Folder
from ..files.layout import PROMPTS_FILE, ROLLUPS_FILE, TOKENS_FILE, GroupIndex, PartFile, events_schema
from ..files.manifest import TABLES, PartEntry
from ..schema import RouterSpec
from .ledger import Reservation
from .parts import file_entry


def rekeyed(
    folder: Folder,
    entry: PartEntry,
    to: Reservation,
    *,
    routers: Sequence[RouterSpec],
    capture: Sequence[str],
    put: Callable[[str, bytes | memoryview], None],
) -> PartEntry:
    """Hands over the files of a part under another name and other keys, and returns its new entry.

    Args:
        put: called with the table and the bytes of each file.
    Raises:
        DamagedPart: a file is not what the manifest says.
    """
    schemas = {
        "prompts": PROMPTS_FILE, "tokens": TOKENS_FILE, "rollups": ROLLUPS_FILE,
        "events": events_schema(routers, capture),
    }  # fmt: skip
    files = {}
    for table in TABLES:
        with told_as_damage(folder, entry, table):
            data = folder.read(entry.path(table))
        file, bytes_ = _shifted(
            folder, entry, table, data, schemas[table], to.first_prompt - entry.first_prompt
        )
        put(table, bytes_)
        files[table] = file_entry(file, memoryview(bytes_))
    return replace(entry, name=to.name, first_prompt=to.first_prompt, files=files)


def _shifted(
    folder: Folder, entry: PartEntry, table: str, data: bytes, schema: pa.Schema, shift: int
) -> tuple[int, bytes | memoryview]:
    """Rows and bytes of a file whose keys are raised by `shift`; row groups stay what they are."""
    check_sha256(entry, table, hashlib.sha256(data).hexdigest())
    if shift == 0:
        return entry.files[table].rows, data
    with told_as_damage(folder, entry, table):
        source = pq.ParquetFile(io.BytesIO(data))
        index, file = GroupIndex.from_metadata(source.metadata.metadata), PartFile(schema)
        for group in range(source.num_row_groups):
            rows = source.read_row_group(group, use_threads=False)
            keys = pa.array(np.asarray(rows["prompt"]) + np.int32(shift), pa.int32())
            rows = rows.set_column(0, schema.field("prompt"), keys).cast(schema)
            first, last = index.first[group] + shift, index.last[group] + shift
            file.add(rows, router=index.router[group], first=first, last=last)
    return file.rows, file.close()

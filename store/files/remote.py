"""Parquet files behind a URL, where a request takes tens of milliseconds whatever it brings.

Arrow's dataset fragments do the reading. They are told the size of a file, which the manifest knows, so that nothing is
asked before its footer; they keep the footer; and they fetch the column chunks that a question needs in one go, those
that lie close together in one request: few requests, many at once.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from .layout import footer_of

if TYPE_CHECKING:
    import pyarrow.dataset as ds

IN_FLIGHT = 64
"""Requests at once. Object stores answer any number side by side; a connection carries one."""
HOLE_BYTES = 1 << 17
"""Chunks with no more than this between them are fetched together: reading on takes about as long as asking again."""
RANGE_BYTES = 4 << 20
"""No request is made larger than this by joining."""


def allow_requests() -> None:
    """Let Arrow have `IN_FLIGHT` requests out, before its client is made: 8 by default. A number that the user gave
    (ARROW_IO_THREADS) is left."""
    if "ARROW_IO_THREADS" not in os.environ and pa.io_thread_count() < IN_FLIGHT:
        pa.set_io_thread_count(IN_FLIGHT)


def parquet_format() -> ds.ParquetFileFormat:
    """Every page is compared with its CRC."""
    cache = pa.CacheOptions(hole_size_limit=HOLE_BYTES, range_size_limit=RANGE_BYTES, lazy=False)
    import pyarrow.dataset as ds  # it brings pandas, which no local trace needs

    options = ds.ParquetFragmentScanOptions(
        pre_buffer=True, cache_options=cache, page_checksum_verification=True
    )
    return ds.ParquetFileFormat(default_fragment_scan_options=options)


class RemoteParquet:
    """One file, its footer read.

    Args:
        filesystem, path: of Arrow.
        size: in bytes, so that nobody has to ask for it.
    Raises:
        OSError, ArrowException: it is not there, or no Parquet file of this size.
    """

    def __init__(self, filesystem: Any, path: str, size: int):
        self._fragment: Any = parquet_format().make_fragment(path, filesystem, file_size=size)
        self.metadata: pq.FileMetaData = self._fragment.metadata

    def footer_crc32(self) -> int:
        """CRC-32 of the footer as it was understood, written out again. Where it is that of the bytes in the file, none
        of them was misread; a newer Arrow may write the same footer otherwise."""
        sink = pa.BufferOutputStream()
        self.metadata.write_metadata_file(sink)
        return zlib.crc32(footer_of(memoryview(sink.getvalue())))

    def read_row_groups(self, groups: Sequence[int], columns: Sequence[str], *, threads: bool) -> pa.Table:
        """Some columns of some row groups, in order; columns that the file lacks are left out."""
        schema = self._fragment.physical_schema
        there = [name for name in columns if name in schema.names]
        if not groups:
            return pa.schema([schema.field(name) for name in there]).empty_table()
        rows = max(self.metadata.row_group(group).num_rows for group in groups)
        chosen = self._fragment.subset(row_group_ids=list(groups))
        return chosen.to_table(columns=there, batch_size=max(1, rows), use_threads=threads)

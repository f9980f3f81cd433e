"""Parquet files from anywhere, read a few rows at a time, and refused before decoding where they claim too much.

Some hundred bytes can declare a billion rows (run lengths and dictionaries repeat a value for nothing), so the
footer's own figures are held against limits first; while rows come in, what they decode to is added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

_BATCH_BYTES = 1 << 26
_BATCH_ROWS = 65536
_FREE_VALUES = 1_000_000
_VALUES_A_BYTE = 1000
"""More values than this in each byte of a file (beyond the first million) are no recording but a repetition."""

UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, KeyError)
"""What pyarrow raises for files that are damaged or no Parquet at all."""


@dataclass(frozen=True)
class Limits:
    """How much of a file is read at most."""

    rows: int
    values: int
    """Of all columns together, those inside lists too."""
    decoded: int
    """Bytes of all rows together once decoded."""
    group: int
    """Bytes of one row group as it declares them."""


PROMPTS = Limits(rows=2_000_000, values=100_000_000, decoded=1 << 29, group=1 << 29)
ROUTING = Limits(rows=200_000_000, values=4_000_000_000, decoded=64 << 30, group=2 << 30)


class TooMuch(ValueError):
    """A file beyond a limit; the message says which."""


def rows_within(source: Any, size: int, limits: Limits) -> Iterator[list[dict[str, Any]]]:
    """Rows of a Parquet file, some at a time.

    Args:
        source: a path, or a file object.
        size: its bytes.
    Raises:
        TooMuch: beyond a limit; nothing was decoded where the footer says so already.
        One of UNREADABLE: a damaged file.
    """
    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        rows_at_once = _checked(file.metadata, size, limits)
        decoded = 0
        for batch in file.iter_batches(rows_at_once, use_threads=False):
            decoded += batch.nbytes
            if decoded > limits.decoded:
                raise TooMuch(f"its rows decode to more than {limits.decoded:,} bytes")
            yield batch.to_pylist()


def column_names(source: str | BinaryIO) -> list[str]:
    """Names of the top-level columns."""
    return pq.read_schema(source).names


def _checked(metadata: pq.FileMetaData, size: int, limits: Limits) -> int:
    """How many rows may be decoded at once."""
    if metadata.num_rows > limits.rows:
        raise TooMuch(f"it declares {metadata.num_rows:,} rows; at most {limits.rows:,} are read")
    values, widest = 0, 1
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(column) for column in range(group.num_columns)]
        declared = max(group.total_byte_size, sum(chunk.total_uncompressed_size for chunk in chunks))
        if declared > limits.group:
            raise TooMuch(
                f"row group {number} declares {declared:,} bytes; at most {limits.group:,} are read at once: "
                "write smaller row groups"
            )
        values += sum(max(chunk.num_values, group.num_rows) for chunk in chunks)
        widest = max([widest, *(chunk.total_uncompressed_size for chunk in chunks)])
    if values > min(limits.values, _FREE_VALUES + _VALUES_A_BYTE * size):
        raise TooMuch(f"it declares {values:,} values in {size:,} bytes, which no recording needs")
    # No value is longer than all that its column declares: so many rows can't decode to more than a batch.
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // widest)) if metadata.num_rows > 1 else 1

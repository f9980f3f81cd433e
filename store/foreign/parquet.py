"""Parquet files from anywhere, read a few rows at a time, and refused before decoding where they claim too much.

Some hundred bytes can declare a billion rows (run lengths and dictionaries repeat a value for nothing), so the
footer's own figures are held against limits first; while rows come in, what they decode to is added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .parquet_footer import declared

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


def rows_within(source: Path | BytesIO, size: int, limits: Limits) -> Iterator[list[dict[str, Any]]]:
    """Rows of a Parquet file, some at a time.

    Args:
        source: a path, or the bytes.
        size: its bytes.
    Raises:
        TooMuch: beyond a limit; nothing was decoded where the footer says so already.
        One of UNREADABLE: a damaged file.
    """
    rows_at_once = _checked(_tail(source), size, limits)
    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        decoded = 0
        for batch in file.iter_batches(rows_at_once, use_threads=False):
            decoded += batch.nbytes
            if decoded > limits.decoded:
                raise TooMuch(f"its rows decode to more than {limits.decoded:,} bytes")
            yield batch.to_pylist()


def column_names(source: Path | BytesIO) -> list[str]:
    """Names of the top-level columns."""
    return pq.read_schema(source).names


def _tail(source: Path | BytesIO) -> bytes:
    """The end of a file, with its footer."""
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(8)[:4], "little") + 8
        file.seek(max(0, size - length))
        tail = file.read()
        file.seek(0)
    return tail


def _checked(tail: bytes, size: int, limits: Limits) -> int:
    """How many rows may be decoded at once."""
    rows, groups = declared(tail)
    rows = max(rows, sum(group.rows for group in groups))
    if rows > limits.rows:
        raise TooMuch(f"it declares {rows:,} rows; at most {limits.rows:,} are read")
    for number, group in enumerate(groups):
        if group.bytes > limits.group:
            raise TooMuch(
                f"row group {number} declares {group.bytes:,} bytes; at most {limits.group:,} are read at once: "
                "write smaller row groups"
            )
    values = sum(group.values for group in groups)
    if values > min(limits.values, _FREE_VALUES + _VALUES_A_BYTE * size):
        raise TooMuch(f"it declares {values:,} values in {size:,} bytes, which no recording needs")
    # No value is longer than all that its column declares: so many rows can't decode to more than a batch.
    widest = max([1, *(group.widest for group in groups)])
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // widest)) if rows > 1 else 1

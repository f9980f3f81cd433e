"""The footer's own figures, read without pyarrow, are those that pyarrow reads; damage is refused."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.store.foreign.parquet_footer import BadFooter, declared


def written() -> bytes:
    sink = io.BytesIO()
    table = pa.table({"a": ["x", "y", None], "b": [[1, 2], [], [3]], "c": [{"d": 1.5}] * 3})
    pq.write_table(table, sink, row_group_size=2, write_page_index=True)
    return sink.getvalue()


def test_it_declares_what_pyarrow_reads() -> None:
    data = written()
    metadata = pq.read_metadata(io.BytesIO(data))
    rows, groups = declared(data)
    assert rows == metadata.num_rows == 3
    for number, group in enumerate(groups):
        theirs = metadata.row_group(number)
        chunks = [theirs.column(column) for column in range(theirs.num_columns)]
        assert group.rows == theirs.num_rows
        assert group.values == sum(max(chunk.num_values, theirs.num_rows) for chunk in chunks)
        assert group.widest == max(chunk.total_uncompressed_size for chunk in chunks)
        assert group.bytes == max(
            theirs.total_byte_size, sum(chunk.total_uncompressed_size for chunk in chunks)
        )


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 400),
)
def test_damage_is_refused_or_read_and_never_runs_away(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(written())
    length = int.from_bytes(data[-8:-4], "little")
    for at, value in changes:
        data[len(data) - 8 - 1 - at % length] = value
    if cut % 5 == 0:
        del data[-8 - cut : -8]
    try:
        rows, groups = declared(bytes(data))
    except BadFooter:
        return
    assert rows >= 0
    assert all(group.values >= 0 for group in groups)


def test_what_is_no_parquet_has_no_footer() -> None:
    for data in (
        b"",
        b"PAR1",
        b"PAR1" * 3,
        np.zeros(100, np.uint8).tobytes(),
        b"\xff" * 8 + b"\xff\0\0\0PAR1",
    ):
        with pytest.raises(BadFooter):
            declared(data)

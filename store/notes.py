"""What a reader of a table must know beside its numbers: left-out languages, unequal coverage, our choices.

Notes travel in the table's schema metadata, so they survive Parquet and reach the command line and the page.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

_KEY = b"moescope.notes"


def with_notes(table: pa.Table, notes: Sequence[str]) -> pa.Table:
    """The table with these notes, in place of any that it had."""
    metadata = {**(table.schema.metadata or {}), _KEY: json.dumps(list(notes)).encode()}
    return table.replace_schema_metadata(metadata)


def notes_of(table: pa.Table) -> list[str]:
    """The notes of a table, in order; none where it has none."""
    return json.loads((table.schema.metadata or {}).get(_KEY, b"[]"))

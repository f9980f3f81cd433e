"""A table with exactly the columns of a schema."""

from __future__ import annotations

import pyarrow as pa

from ..errors import BadPart


def conform(table: pa.Table, schema: pa.Schema, what: str) -> pa.Table:
    """The table with exactly the columns of a schema; missing ones are null.

    Raises:
        BadPart: a column that the schema does not have, or values of another type.
    """
    unknown = sorted(set(table.column_names) - set(schema.names))
    if unknown:
        raise BadPart(f"{what}: unknown column {', '.join(unknown)}")
    arrays = []
    for column in schema:
        if column.name not in table.column_names:
            arrays.append(pa.nulls(table.num_rows, column.type))
            continue
        try:
            arrays.append(table[column.name].cast(column.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise BadPart(f"{what}: column {column.name}: {error}") from error
    return pa.Table.from_arrays(arrays, schema=schema)

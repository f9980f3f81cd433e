"""The loads of two traces in one table, as two maps with one hover card take them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ..views.experts.load_difference import difference


def side_by_side_loads(a: pa.Table, b: pa.Table) -> pa.Table:
    """The `load` views of two traces, one under the other; each cell tells both sides.

    Args:
        a, b: from `with_measure`.
    Returns:
        trace (a or b), stream, layer, expert, value (of that trace), share_a, share_b, difference (a - b), tokens_a,
        tokens_b; null where the other trace has no such cell, or no token passed the router.
    """
    joined = difference(a, b).rename_columns({"value": "difference", "a": "share_a", "b": "share_b"})
    sides = [_of_side(side, name, joined) for name, side in (("a", a), ("b", b))]
    return pa.concat_tables(sides)


def _of_side(side: pa.Table, name: str, joined: pa.Table) -> pa.Table:
    keys = ["stream", "layer", "expert"]
    own = side.select([*keys, "value", "tokens"])
    row_of = {key: row for row, key in enumerate(zip(*(joined[k].to_pylist() for k in keys), strict=True))}
    at = [row_of.get(key) for key in zip(*(own[k].to_pylist() for k in keys), strict=True)]
    told = joined.drop_columns(keys).take(pa.array(at, pa.int64()))
    alone = np.array([row is None for row in at], bool)
    for column, source in ((f"share_{name}", "value"), (f"tokens_{name}", "tokens")):
        place, kind = told.schema.get_field_index(column), joined.schema.field(column).type
        filled = np.where(alone, own[source].to_numpy(), told[column].to_numpy(zero_copy_only=False))
        told = told.set_column(place, column, pa.array(filled, kind, from_pandas=True))
    columns = {"trace": pa.array([name] * own.num_rows)} | {k: own[k] for k in (*keys, "value")}
    return pa.table(columns | {k: told[k] for k in told.column_names})

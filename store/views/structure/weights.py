"""What an expert's weights say: their norms in its layer, and the experts whose router rows or outputs are alike.

Read from the expert sheet, which `moescope weigh` writes into a trace.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ...expert_sheet import expert_sheet
from ...notes import with_notes
from ...read.trace_rows import TraceRows
from ..experts.contexts import check_expert
from ..registry import view

ROUTER_ROW = "router row"
RUN = "run moescope weigh MODEL --trace TRACE"
By = Literal["router", "outputs"]

_NORMS = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("expert", pa.int32()), ("matrix", pa.string())],
        *[("norm", pa.float64()), ("layer_mean", pa.float64()), ("layer_least", pa.float64())],
        *[("layer_most", pa.float64()), ("rank", pa.int32()), ("experts", pa.int32())],
        *[("outlier", pa.float64()), ("layer_outlier", pa.float64())],
    ]
)
_ALIKE = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("expert", pa.int32())],
        *[("router_cosine", pa.float64()), ("router_mean", pa.float64()), ("router_high", pa.float64())],
        *[("output_similarity", pa.float64()), ("output_mean", pa.float64()), ("output_high", pa.float64())],
    ]
)


@view("expert-weights")
def expert_weights(trace: TraceRows, *, layer: int, expert: int, stream: str = "decoder") -> pa.Table:
    """Norms of an expert's matrices and of its row of the router's weight, beside those of its layer.

    Returns:
        layer, stream, expert, matrix ("router row", then the names in the checkpoint), norm (Frobenius), layer_mean,
        layer_least, layer_most (over the layer's experts), rank (1 = the largest norm), experts (of the layer), outlier
        (largest over mean size of an input's weights, the worst input; see docs/methods/decisions.md), layer_outlier
        (its mean over the layer); null where it was not measured. From the expert sheet: without one no rows, and a
        note that says what to run.
    """
    rows = _sheet(trace, layer, stream, expert)
    if not rows:
        return with_notes(_NORMS.empty_table(), [f"No weights were measured: {RUN}."])
    at = {"layer": layer, "stream": stream, "expert": expert, "experts": len(rows)}
    records = []
    if all(row["router_norm"] is not None for row in rows):
        records.append(at | {"matrix": ROUTER_ROW} | _beside([row["router_norm"] for row in rows], expert))
    for number, name in enumerate(rows[expert]["matrices"] or ()):
        if all(row["norms"] for row in rows):
            records.append(at | {"matrix": name} | _beside([row["norms"][number] for row in rows], expert))
            if all(row["outliers"] for row in rows):
                outlier_E = [row["outliers"][number] for row in rows]
                records[-1] |= {"outlier": outlier_E[expert], "layer_outlier": float(np.mean(outlier_E))}
    notes = [] if records else [f"No norms were measured: {RUN} --what norms."]
    return with_notes(pa.Table.from_pylist(records, schema=_NORMS), notes)


def _beside(norms: list[float], expert: int) -> dict[str, Any]:
    norm_E = np.array(norms)
    return {
        "norm": norms[expert],
        "layer_mean": float(norm_E.mean()),
        "layer_least": float(norm_E.min()),
        "layer_most": float(norm_E.max()),
        "rank": int((norm_E > norms[expert]).sum()) + 1,
    }


@view("expert-likeness")
def expert_likeness(
    trace: TraceRows, *, layer: int, expert: int, by: By = "router", limit: int = 8, stream: str = "decoder"
) -> pa.Table:
    """The experts of a layer that are most like one: by rows of the router's weight, by outputs on the same tokens.

    Args:
        by: router or outputs: which likeness sorts, largest first.
        limit: how many; 0 for all.
    Returns:
        layer, stream, expert (the other one), router_cosine (of the two rows of the router's weight), router_mean and
        router_high (mean and 95 % quantile of all pairs of the layer), output_similarity (mean cosine of the two
        experts' outputs on shared tokens), output_mean, output_high; null where it was not measured. From the expert
        sheet: without one no rows, and a note that says what to run.
    """
    rows = _sheet(trace, layer, stream, expert)
    if not rows:
        return with_notes(_ALIKE.empty_table(), [f"No weights were measured: {RUN}."])
    columns: dict[str, Any] = {}
    for name, column in (("router", "router_cosine"), ("output", "output_similarity")):
        columns |= _of_layer([row[column] for row in rows], name, column, expert)
    order = columns["router_cosine" if by == "router" else "output_similarity"]
    if order is None:
        what = "norms" if by == "router" else "similarity"
        return with_notes(_ALIKE.empty_table(), [f"No likeness by {by} was measured: {RUN} --what {what}."])
    best = [int(e) for e in np.argsort(-order, kind="stable") if e != expert][: limit or None]
    records = [
        {"layer": layer, "stream": stream, "expert": e}
        | {n: v if v is None or np.ndim(v) == 0 else float(v[e]) for n, v in columns.items()}
        for e in best
    ]
    return pa.Table.from_pylist(records, schema=_ALIKE)


def _of_layer(rows: list[list[float] | None], name: str, column: str, expert: int) -> dict[str, Any]:
    """One row of the layer's matrix (E,), and mean and 95 % quantile of all its pairs; nulls where one is missing."""
    known = [row for row in rows if row is not None]
    if len(known) < max(len(rows), 2):
        return {column: None, f"{name}_mean": None, f"{name}_high": None}
    matrix_EE = np.array(known)
    pairs = matrix_EE[np.triu_indices(len(matrix_EE), 1)]
    return {
        column: matrix_EE[expert],
        f"{name}_mean": float(pairs.mean()),
        f"{name}_high": float(np.quantile(pairs, 0.95)),
    }


def _sheet(trace: TraceRows, layer: int, stream: str, expert: int) -> list[dict[str, Any]]:
    """The sheet's rows of a layer, by expert; none where it has no whole layer of them."""
    check_expert(trace, layer, stream, expert)
    number = trace.routers.index(trace.router(layer, stream))
    (table,) = trace.memo.get(("expert sheet", number), lambda: (expert_sheet(trace, number),))
    rows = [] if table is None else sorted(table.to_pylist(), key=lambda row: row["expert"])
    whole = [row["expert"] for row in rows] == list(range(trace.routers[number].num_experts))
    return rows if whole else []

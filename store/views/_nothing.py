"""Selections that hold no token: a table of zeros would look like a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ..notes import notes_of, with_notes
from ..read.token_filter import TokenFilter
from ..read.trace_rows import TraceRows
from ..schema import RouterSpec

KINDS = ("phase", "completion", "special")
NARROWING = ("where", *KINDS)


def selects_nothing(trace: TraceRows, known: Mapping[str, Any], params: Mapping[str, Any]) -> str | None:
    """Why no token is in what the parameters of a view select, or None where one is.

    Args:
        known: all parameters of the view.
    """
    if not any(params.get(name, True) is not True for name in NARROWING) or not trace.routers:
        return None
    where = params.get("where") or None
    source = trace.sums_by(None, where)
    if where and not source.prompt_mask(where).any():
        return f"No prompt has {_listed(where)}: there is nothing to measure."
    if "phase" not in known:
        return None
    tokens = TokenFilter(
        where=where, **{name: params[name] for name in KINDS if params.get(name) is not None}
    )
    router = _router(trace, known, params)
    rows = source.rollups(router.layer, router.stream, sums=())
    if tokens.rows(source, rows).any():
        return None
    whose = f" of the prompts with {_listed(where)}" if where else ""
    kind = " and ".join(
        f"{name} {str(params[name]).lower()}" for name in KINDS if params.get(name) is not None
    )
    return f"No token{whose} has {kind}: there is nothing to measure."


def without_rows(table: pa.Table, why: str) -> pa.Table:
    """The table's columns and notes without its rows, and why there are none."""
    return with_notes(table.slice(0, 0), [why, *notes_of(table)])


def _router(trace: TraceRows, known: Mapping[str, Any], params: Mapping[str, Any]) -> RouterSpec:
    stream = params.get("stream") or ("decoder" if "stream" in known else None)
    layer = params.get("layer")
    return trace.select_routers(layer if isinstance(layer, int) else None, stream)[0]


def _listed(where: Mapping[str, Any]) -> str:
    values = {name: [given] if isinstance(given, str) else list(given) for name, given in where.items()}
    return " and ".join(f"{name} {' or '.join(map(str, found))}" for name, found in values.items())

"""Entries of a report from a trace's views, without a browser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ...store import Trace, views
from ...store.notes import notes_of
from .. import export
from ..figures.theme import LIGHT
from ..text import words
from .item import Item, origin, packed
from .of_view import of_view


def item_of_view(trace: Trace, name: str, view: str, params: dict[str, Any]) -> Item:
    """A view as an entry: its figure where it has one and there is anything to draw, else its table.

    Args:
        name: what the trace is called in the report.
    Raises:
        StoreError: the view can't be computed, or its parameters are wrong.
    """
    table = trace.view(view, **params)
    figure = of_view(view) if table.num_rows else None
    about = origin(trace, name, _chosen(params, views.parameters(view)))
    about |= {"view": view, "params": params}
    notes = " ".join(notes_of(table))
    given = "".join(f", {key}={value!r}" for key, value in params.items())
    python = f"from moescope.store import open_trace\n\ntable = open_trace({name!r}).view({view!r}{given})"
    if figure is None:
        title = f"{words.label_of_view(view)}, {name}"
        say = notes if table.num_rows else f"There is nothing to show. {notes}".strip()
        return Item(kind="table", title=title, say=say, about=about, numbers=packed(table), python=python)
    spec = export.specification(figure.draw(table, LIGHT))
    say = " ".join(filter(None, [figure.say(table), notes]))
    return Item(kind="figure", title=f"{figure.title}, {name}", say=say, about=about, spec=spec,
                numbers=packed(_plain(table)), python=python)  # fmt: skip


def _chosen(given: dict[str, Any], known: Mapping[str, Any]) -> str:
    """Prompts, tokens (where the view takes them), the pivot and the other parameters in words.

    Args:
        known: parameters of the view by name.
    """
    tokens = "special" in known
    params = ({"pivot": known["pivot"].default} if "pivot" in known else {}) | given
    parts = [words.selection(params.get("where") or {})]
    parts += [words.tokens(params)] if tokens else []
    said = {"where"} | ({"special", "phase", "completion"} if tokens else set())
    parts += [f"{key.replace('_', ' ')} {value}" for key, value in params.items() if key not in said]
    return ", ".join(parts)


def _plain(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata(None)

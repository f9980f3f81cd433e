"""The routing map as a switchboard: a component whose cells are clicked and boxed.

The cells' colours are numbers of a trace; over them stands what a steering does to each cell. Drawn in the
browser, so that a map of 58 × 256 answers a hand at once.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import streamlit as st
from streamlit.components.v2 import component

from ....store.schema import Cell, RouterKey
from ....tracer.steering.kind import Mark
from ... import ASSETS
from ...figures.routing_layout import lay_out
from ...figures.routing_map import color_stops, default_steps
from ...figures.theme import Theme
from ...steering.edit import State
from ...text import words

STATES: tuple[State, ...] = get_args(Mark)


@dataclass(frozen=True, kw_only=True)
class Underlay:
    """What the cells' colours show."""

    table: pa.Table
    """Columns stream, layer, expert, value (null: not recorded)."""
    label: str
    diverging: bool = False
    percent: bool = True


def switchboard(
    under: Underlay,
    states: Mapping[Cell, State],
    rules_of_layer: Mapping[RouterKey, list[str]],
    *,
    theme: Theme,
    key: str,
    on_edit: Callable[..., None],
    args: tuple[Any, ...] = (),
) -> None:
    """Draw the board; `on_edit(*args)` runs after clicks and boxes, whose cells `edits(key)` then tells."""
    data = payload(under, states, rules_of_layer, theme)
    data["version"] = hashlib.sha256(json.dumps(data).encode()).hexdigest()
    mount, number = st.session_state.get(f"{key} taken", ("", 0))
    data["taken"] = {"mount": mount, "number": number}
    _component()(data=data, key=key, on_edit_change=lambda: on_edit(*args))


Taken = tuple[str, int]
"""Which board in a browser, and the number of its last edit that was taken."""


def edits(key: str) -> list[list[Cell]]:
    """The cells of each click or box that this run is about, in their order; each is told once."""
    event = (st.session_state.get(key) or {}).get("edit") or {}
    found, st.session_state[f"{key} taken"] = new_edits(event, st.session_state.get(f"{key} taken", ("", 0)))
    return found


def new_edits(event: Mapping[str, Any], taken: Taken) -> tuple[list[list[Cell]], Taken]:
    """The edits of a message that were not taken yet: quick clicks may come in one message, or one of them twice."""
    mount = str(event.get("mount", ""))
    last = taken[1] if taken[0] == mount else 0
    fresh = sorted(
        (edit for edit in event.get("edits", []) if int(edit["number"]) > last),
        key=lambda edit: int(edit["number"]),
    )
    if not fresh:
        return [], taken
    cells = [
        [Cell(str(stream), int(layer), int(expert)) for stream, layer, expert in edit["cells"]]
        for edit in fresh
    ]
    return cells, (mount, int(fresh[-1]["number"]))


@st.cache_resource(show_spinner=False)
def _component():
    return component(
        "moescope.switchboard",
        css=(ASSETS / "switchboard.css").read_text(),
        js=(ASSETS / "switchboard.js").read_text(),
    )


def payload(
    under: Underlay,
    states: Mapping[Cell, State],
    rules_of_layer: Mapping[RouterKey, list[str]],
    theme: Theme,
) -> dict[str, Any]:
    """What the browser needs: rows from the input upwards, values and states row after row."""
    layout = lay_out(under.table, "value")
    label_of = dict(zip(layout.routers, layout.row_labels, strict=True))
    widths = np.zeros(len(layout.routers), int)
    np.maximum.at(widths, layout.row_C, layout.expert_C + 1)
    starts = np.concatenate([[0], np.cumsum(widths)[:-1]]).astype(int)
    value_C = np.full(int(widths.sum()), np.nan, np.float32)
    value_C[starts[layout.row_C] + layout.expert_C] = layout.value_C
    state_C = np.zeros(len(value_C), np.uint8)
    row_of = {router: row for row, router in enumerate(layout.routers)}
    for cell, state in states.items():
        row = row_of.get(cell.router)
        if row is not None and cell.expert < widths[row]:
            state_C[starts[row] + cell.expert] = STATES.index(state) + 1
    known = np.abs(value_C[np.isfinite(value_C)])
    colors = theme.diverging if under.diverging else theme.sequential
    # A difference keeps even colours: by percentile its noise would look like its findings.
    steps = "even" if under.diverging else default_steps(len(layout.value_C))
    return {
        "name": f"Switchboard: {words.amount(len(states), 'cell')} {'is' if len(states) == 1 else 'are'} steered",
        "rows": [
            {"stream": key.stream, "layer": key.layer, "label": label_of[key], "experts": int(widths[row]),
             "start": int(starts[row]), "rules": rules_of_layer.get(key, [])}
            for key, row in row_of.items()
        ],
        "values": _packed(value_C),
        "states": _packed(state_C),
        "key": sorted({1, 2} | {int(s) for s in np.unique(state_C) if s}),
        "label": under.label,
        "factor": 100 if under.percent else 1,
        "digits": 1 if under.percent else 3,
        "unit": "\u202f%" if under.percent else "",
        "top": float(known.max()) if len(known) and known.max() > 0 else 1.0,
        "diverging": under.diverging,
        "colors": list(colors), "by_percentile": steps == "percentile",
        "stops": color_stops(layout.value_C, len(colors), diverging=under.diverging, steps=steps),
        "background": theme.background, "text": theme.text, "muted": theme.muted, "missing": theme.missing,
        "steered": theme.steered,
    }  # fmt: skip


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()

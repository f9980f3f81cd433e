"""Heatmap: layers × experts, of one selection, of the difference of two, or side by side by a tag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import streamlit as st

from ...store import Trace
from ...store.arrow import pc
from ...store.notes import notes_of
from ...store.views.experts.load_difference import difference, moved, with_measure
from ..figures.load import HOVER, MEASURES, difference_hover
from ..figures.multiples import small_maps
from ..figures.routing_map import Hover, default_steps, routing_map
from ..sentences import load as sentences
from ..shell import link_check, messages, show
from ..shell.page_context import PageContext
from ..text import definitions, words
from . import expert_drawer

ONE, DIFFERENCE, SIDE_BY_SIDE = "one map", "difference", "side by side"
MOST_CELLS = 60_000


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a difference."""

    name: str
    second: bool = False
    """Whether it is of the second trace."""
    params: dict[str, Any] = field(default_factory=dict)


def page(context: PageContext) -> None:
    """Draw the page."""
    st.title("Heatmap", anchor=False)
    missing = {name: why for name in MEASURES if (why := _not_recorded(context, name))}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        recorded = [name for name in MEASURES if name not in missing]
        # Streamlit knows a choice in the address by its label.
        link_check.look("measure", [MEASURES[name].label for name in recorded], what="the measure")
        measure = st.segmented_control(
            "Colour", recorded, default="share", key="measure", bind="query-params", required=True,
            format_func=lambda name: MEASURES[name].label, help=_explained(),
        ) or "share"  # fmt: skip
        kinds = (
            [ONE, DIFFERENCE, SIDE_BY_SIDE] if context.tags() else [ONE] + [DIFFERENCE] * bool(context.second)
        )
        kind = st.segmented_control(
            "Show", kinds, default=ONE, key="show", bind="query-params", required=True
        ) or ONE  # fmt: skip
        sort = st.segmented_control(
            "Experts", ["id", "load"], default="id", key="sort", bind="query-params", required=True,
            format_func={"id": "by id", "load": "largest first"}.__getitem__,
        ) or "id"  # fmt: skip
        steps = None
        if kind == ONE:
            cells = sum(router.num_experts for router in context.routers())
            steps = st.segmented_control(
                "Colours change", ["even", "percentile"], default=default_steps(cells), key="steps",
                bind="query-params", required=True,
                format_func={"even": "evenly", "percentile": "by percentile"}.__getitem__,
                help="By percentile: each step of the colour holds equally many experts, so that one busy expert does "
                "not leave all others pale.",
            )  # fmt: skip
        down = st.toggle("input at the top", key="down", bind="query-params")
    link_check.tell("measure")
    if missing:
        messages.say(" ".join(missing.values()))
    look = {"sort": sort, "reverse": down, "steps": steps}
    if kind == DIFFERENCE:
        _difference(context, measure, look)
    elif kind == SIDE_BY_SIDE:
        _side_by_side(context, measure, look)
    else:
        _one(context, measure, look)
        if context.second_name:
            messages.say(
                f"The map is of “{context.name}” alone; “difference” above compares it with “{context.second_name}”."
            )
    if cell := expert_drawer.chosen():
        expert_drawer.draw(context, cell, over_map=True)


def _one(context: PageContext, measure: str, look: dict[str, Any]) -> None:
    with messages.loading(height=420):
        table = with_measure(context.in_window(context.view("load")), measure)
        balance = context.in_window(context.view("load-balance"))
    if _nothing(table):
        return
    margin = (
        "busiest ÷ mean",
        balance.select(["stream", "layer"]).append_column("value", balance["max_over_mean"]),
    )
    who = words.selection(context.where) if context.where else "all"
    table, hover = _with_owners(context, table)
    _map(
        context, table, measure, look, hover=hover, margin=margin, name=f"heatmap-{measure}",
        title=f"{MEASURES[measure].label.capitalize()} by layer and expert",
        say=sentences.load(table, measure, who), python=context.snippet("load"),
    )  # fmt: skip


def _with_owners(context: PageContext, table: pa.Table) -> tuple[pa.Table, Sequence[Hover]]:
    """The table and the card of a cell, with the layer that owns each expert where that may be another."""
    specs = {spec.layer: spec for spec in context.routers()}
    if all(spec.owners is None for spec in specs.values()):
        return table, HOVER
    cells = zip(table["layer"].to_pylist(), table["expert"].to_pylist(), strict=True)
    owners = pa.array([specs[layer].owner(expert) for layer, expert in cells], pa.int32())
    return table.append_column("owner", owners), (*HOVER, Hover(column="owner", title="owned by layer"))


def _difference(context: PageContext, measure: str, look: dict[str, Any]) -> None:
    sides = _choose_sides(context)
    if sides is None:
        return
    a, b = sides
    if b.second and context.second and _shape(context.trace) != _shape(context.second):
        messages.note(
            "error",
            "The two traces have different routers, so equal expert numbers mean different experts. "
            "Only cells in both are shown.",
        )
    with messages.loading(height=420):
        tables = [
            with_measure(context.in_window(context.view("load", second=side.second, **side.params)), measure)
            for side in sides
        ]
    if any(map(_nothing, tables)):
        return
    table = difference(*tables)
    _map(
        context, table, measure, look, hover=difference_hover(measure, a.name, b.name),
        margin=("moved", moved(table)), name=f"heatmap-{measure}-difference", diverging=True,
        title=f"{MEASURES[measure].label.capitalize()}: {a.name} minus {b.name}",
        say=sentences.load_difference(table, measure, a.name, b.name),
        python=_difference_snippet(context, measure, a, b),
    )  # fmt: skip


def _shape(trace: Trace) -> dict[tuple[str, int], int]:
    return {router.key: router.num_experts for router in trace.routers}


def _map(
    context: PageContext,
    table: pa.Table,
    measure: str,
    look: dict[str, Any],
    *,
    hover: Any,
    margin: tuple[str, pa.Table],
    diverging: bool = False,
    name: str,
    title: str,
    say: str,
    python: str,
) -> None:
    known = MEASURES[measure]
    label = title if diverging else _with_chance(context, known.label, measure)
    first = st.session_state.setdefault("first cell", expert_drawer.chosen())
    selected = first._asdict() if first else None
    points = show.chart(
        lambda theme: routing_map(
            table, "value", theme=theme, label=label, hover=_recorded(table, hover), layer_margin=margin,
            value_format=("+" if diverging else "") + known.axis_format, diverging=diverging,
            selected=selected, **look,
        ),
        table, name=name, key="map", title=title, say=say, python=python, select="cell",
    )  # fmt: skip
    expert_drawer.choose(points)


def _choose_sides(context: PageContext) -> tuple[Side, Side] | None:
    columns = ["trace"] * (context.second is not None) + context.tags()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        column = link_check.selectbox(
            "Difference of", columns, key="of", what="the column", forgets=("a", "b"), width=170
        )
        if column == "trace":
            return Side(name=context.name), Side(name=str(context.second_name), second=True)
        values = context.trace.tags()[column]
        named = {"all others": "all others"} | {value: words.option(column, value) for value in values}
        how: dict[str, Any] = {"what": words.label(column), "width": 220, "format_func": named.__getitem__}
        a = link_check.selectbox("this", values, key="a", **how)
        others = [value for value in named if value != a]
        b = link_check.selectbox("minus", others, key="b", known=list(named), **how)
    link_check.tell("of", "a", "b")
    if len(values) < 2:
        messages.empty("Nothing to subtract", f"All prompts have the same {column}: {values[0]}.")
        return None
    rest = [value for value in values if value != a] if b == "all others" else [b]
    name_b = f"all other {column}s" if b == "all others" else words.value_name(column, b)
    return (
        Side(name=words.value_name(column, a), params={"where": {**context.where, column: [a]}}),
        Side(name=name_b, params={"where": {**context.where, column: rest}}),
    )


def _side_by_side(context: PageContext, measure: str, look: dict[str, Any]) -> None:
    column = link_check.selectbox("Side by side, by", context.tags(), key="by", what="the column", width=170)
    link_check.tell("by")
    with messages.loading(height=420):
        table = with_measure(context.in_window(context.view("load", by=column)), measure)
    if _nothing(table):
        return
    known = MEASURES[measure]
    names = {value: words.value_name(column, value) for value in dict.fromkeys(table[column].to_pylist())}
    per_map = table.num_rows // len(names)
    fitting = max(1, MOST_CELLS // per_map)
    if len(names) > fitting:
        left = [names.pop(value) for value in list(names)[fitting:]]
        messages.note(
            "plain", f"{len(left)} more would be too much for one picture: {words.listing(left, most=8)}."
        )
        table = table.filter(pc.is_in(table[column], pa.array(list(names), table[column].type)))
    points = show.chart(
        lambda theme: small_maps(
            table, "value", column, names, theme=theme, label=MEASURES[measure].label,
            value_format=known.axis_format, hover=_recorded(table, HOVER), reverse=look["reverse"],
        ),
        table, name=f"heatmap-{measure}-by-{column}", key="maps", select="cell",
        title=f"{MEASURES[measure].label.capitalize()} by {column}",
        say=sentences.widest_spread(table, measure, column), python=context.snippet("load", by=column),
    )  # fmt: skip
    expert_drawer.choose(points)


def _nothing(table: pa.Table) -> bool:
    if table.num_rows:
        return False
    why = " ".join(notes_of(table)) or "No router lies in the layer window, or no prompt passes the filter."
    messages.empty("Nothing to show", why, todo="Widen the filter in the bar above.")
    return True


def _recorded(table: pa.Table, hover: Any) -> list[Any]:
    """Lines of the hover card that the trace has numbers for."""
    return [line for line in hover if table[line.column].null_count < table.num_rows]


def _with_chance(context: PageContext, label: str, measure: str) -> str:
    if measure != "share":
        return label
    chances = {context.chance(router.layer) for router in context.routers()}
    chance = chances.pop() if len(chances) == 1 else None
    return f"{label} (even routing: {words.percent(chance)})" if chance else label


RECORDED = {
    "weight": ("weight_sum", "gate weights"),
    "probability": ("mean_probability", "router probabilities"),
}
"""Measure → the column of the `load` view that it needs, and what a trace without it lacks."""


def _not_recorded(context: PageContext, measure: str) -> str:
    """Why a measure cannot be shown; empty where it can. With a second trace both must have it."""
    if measure not in RECORDED:
        return ""
    column, what = RECORDED[measure]
    for second, name in ((False, context.name), (True, context.second_name)):
        if name is not None:
            table = context.view("load", second=second)
            if table.num_rows and table[column].null_count == table.num_rows:
                return f"{name} holds no {what}: the {MEASURES[measure].label} cannot be shown."
    return ""


def _explained() -> str:
    return "\n\n".join(definitions.of_place(f"counting:{measure.label}") for measure in MEASURES.values())


def _difference_snippet(context: PageContext, measure: str, a: Side, b: Side) -> str:
    lines = [
        "from moescope.store.views.experts.load_difference import difference, with_measure",
        "from moescope.store import open_trace",
        "",
    ]
    for name, side in (("a", a), ("b", b)):
        url = context.second_url if side.second else context.url
        given = ", ".join(f"{k}={v!r}" for k, v in context.params("load", **side.params).items())
        lines.append(f"{name} = with_measure(open_trace({url!r}).view('load', {given}), {measure!r})")
    return "\n".join([*lines, "table = difference(a, b)"])

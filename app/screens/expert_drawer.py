"""The expert drawer: what a click on a cell of a routing map opens, with an address of its own (`?cell=`).

It answers questions about one expert: whose tokens it takes, which tokens use it most, which experts go with it,
and where it is used; and it keeps the reader's note.
"""

from __future__ import annotations

import time

import pyarrow as pa
import streamlit as st

from ...store.notes import notes_of
from ...store.schema import Cell, LayerExpert
from ..figures.bars import share_bars
from ..sentences import load as sentences
from ..sentences import structure
from ..shell import messages, show, travel
from ..shell.page_context import PageContext, remember
from ..steering import profiles
from ..text import words
from ..text.literal import context_html
from . import expert_contrast, expert_note, expert_weights, token_names

CONTEXTS = 12
ON_ITS_WAY_S = 1.0
"""How long the browser may take to hear of a choice and put it into its address."""
_NEWEST = "newest cell"
COVERED = 0.6
"""Part of a map's experts that stays in sight beside the drawer at the right."""


def chosen() -> Cell | None:
    """The cell that the URL names.

    A browser that sends its next event before it has heard of a choice sends the address as it was: what was
    chosen on this page less than ON_ITS_WAY_S ago holds.
    """
    named = st.query_params.get("cell")
    page, newest, since = st.session_state.get(_NEWEST, ("", named, 0.0))
    on_its_way = page == st.session_state.get("page") and time.monotonic() - since < ON_ITS_WAY_S
    if on_its_way and newest != named:
        remember("cell", newest)
        named = newest
    return Cell.parse(named or "")


def name_in_address(cell: Cell | None) -> None:
    """Open an expert, or close the one that is open."""
    value = None if cell is None else str(cell)
    st.session_state[_NEWEST] = (st.session_state.get("page"), value, time.monotonic())
    remember("cell", value)


def choose(points: list[dict], *, place: str = "map") -> None:
    """Put a newly clicked cell into the URL. A selection that was seen before at this `place` changes
    nothing, so that a drawer that was closed stays closed."""
    clicked = [Cell(p.get("stream", "decoder"), int(p["layer"]), int(p["expert"])) for p in points]
    newest = clicked[-1] if clicked else None
    if newest == st.session_state.get(f"last click {place}"):
        return
    st.session_state[f"last click {place}"] = newest
    if newest is not None:
        name_in_address(newest)


def choose_rows(table: pa.Table, rows: list[int], *, place: str) -> None:
    """`choose` for chosen rows of a table with columns layer, stream and expert."""
    choose([table.slice(row, 1).to_pylist()[0] for row in rows], place=place)


def close() -> None:
    """Forget the cell."""
    name_in_address(None)


def draw(context: PageContext, cell: Cell, *, over_map: bool = False) -> None:
    """Draw the drawer of a cell over the page; `over_map`: at the left where it would hide the cell of a map."""
    spec = next((r for r in context.trace.routers if r.key == cell.router), None)
    there = spec is not None and cell.expert < spec.num_experts
    far = spec is not None and cell.expert > COVERED * spec.num_experts
    with st.container(key="drawer-left" if far and over_map else "drawer"):
        title = f"Layer {cell.layer}, expert {cell.expert}"
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.subheader(title, anchor=False)
            if there:
                st.button("Switch off", icon=":material/toggle_off:", type="tertiary", key="drawer-off",
                          on_click=_switch_off, args=(cell,), help="Steer the model without this expert.")  # fmt: skip
            st.button("Close", icon=":material/close:", type="tertiary", on_click=close, key="close-drawer")
        if spec is None or not there:
            messages.empty("No such expert", f"This trace has no {title.lower()} in stream {cell.stream}.")
            return
        if spec.owner(cell.expert) != cell.layer:
            messages.say(f"It belongs to layer {spec.owner(cell.expert)}.")
        if spec.note:
            messages.say(spec.note)
        with messages.guarded("The shares could not be read"):
            _shares(context, cell)
        with messages.guarded("The tokens could not be read"):
            _tokens(context, cell)
        with messages.guarded("The neighbours could not be read"):
            _neighbours(context, cell)
        with messages.guarded("The weights could not be read"):
            choose(expert_weights.draw(context, cell), place=f"alike {cell}")
        with messages.guarded("The contrasts could not be read"):
            expert_contrast.draw(context, cell)
        with messages.guarded("The examples could not be read"):
            _contexts(context, cell)
        with messages.guarded("The notes could not be read"):
            expert_note.draw(context, cell.stream, cell.layer, cell.expert)


def _switch_off(cell: Cell) -> None:
    rules = profiles.rules_by_layer("off", [LayerExpert(cell.layer, cell.expert)], stream=cell.stream)
    made = profiles.profile(f"layer {cell.layer}, expert {cell.expert} off", "", rules)
    travel.to("steer", profile=profiles.in_address(made))


def _shares(context: PageContext, cell: Cell) -> None:
    columns = context.tags()
    if not columns:
        return
    st.segmented_control(
        "By", columns, default=columns[0], key="drawer-by", format_func=words.label, required=True,
        label_visibility="collapsed",
    )  # fmt: skip
    by = st.session_state.get("drawer-by") or columns[0]
    ask = {"by": by, "layer": cell.layer, "expert": cell.expert, "stream": cell.stream}
    table = context.view("expert-shares", **ask)
    show.chart(
        lambda theme: share_bars(table, by, theme=theme),
        table,
        name=f"layer-{cell.layer}-expert-{cell.expert}-by-{by}",
        key="drawer-shares",
        title=f"Layer {cell.layer}, expert {cell.expert}: share of tokens by {by}",
        say=sentences.by_value(table, by, cell.layer, cell.expert),
        python=context.snippet("expert-shares", **ask),
    )


def _tokens(context: PageContext, cell: Cell) -> None:
    st.markdown("###### Tokens that use it most")
    order = st.segmented_control(
        "Order", ["count", "share"], default="count", key="drawer-order", required=True,
        format_func={"count": "by number of uses", "share": "by share of occurrences"}.__getitem__,
        label_visibility="collapsed",
    )  # fmt: skip
    least = 1 if order == "count" else 5
    ask = {"layer": cell.layer, "expert": cell.expert, "stream": cell.stream, "order": order, "least": least}
    table = context.view("expert-tokens", **ask)
    if not table.num_rows:
        _why_nothing(table, "No token of this selection uses the expert.")
        return
    shown = table.set_column(1, "token", pa.array(token_names.named(context, table)))
    rare = "" if order == "count" else "Tokens that occur fewer than 5 times are left out."
    show.table(
        shown.select(["token", "count", "occurrences", "share", "mean_weight"]),
        name=f"layer-{cell.layer}-expert-{cell.expert}-tokens",
        key="drawer-tokens",
        say=(rare + token_names.explained(table)).strip(),
        columns={
            "share": st.column_config.NumberColumn(format="percent"),
            "mean_weight": st.column_config.NumberColumn("weight", format="%.3f"),
            "occurrences": st.column_config.NumberColumn("of"),
        },
        height=250,
        python=context.snippet("expert-tokens", **ask),
    )


def _why_nothing(table: pa.Table, otherwise: str) -> None:
    messages.say(" ".join(notes_of(table)) or otherwise)


def _neighbours(context: PageContext, cell: Cell) -> None:
    st.markdown("###### Which experts go with it")
    ask = {"layer": cell.layer, "expert": cell.expert, "stream": cell.stream}
    table = context.view("expert-neighbours", **ask)
    if not table.num_rows:
        _why_nothing(table, structure.neighbours(table))
        return
    chosen = show.table(
        table,
        name=f"layer-{cell.layer}-expert-{cell.expert}-neighbours",
        key="drawer-neighbours",
        select="single-row",
        height=250,
        say=f"{structure.neighbours(table)} Lift is the share of its tokens against that of all tokens; click a row "
        "to open that expert.",
        columns={
            "share": st.column_config.NumberColumn(format="percent"),
            "chance": st.column_config.NumberColumn("of all tokens", format="percent"),
            "lift": st.column_config.NumberColumn(format="%.2f"),
        },
        python=context.snippet("expert-neighbours", **ask),
    )
    rows = [table.slice(row, 1).to_pylist()[0] | {"stream": cell.stream} for row in chosen]
    choose(rows, place=f"neighbours of {cell}")


def _contexts(context: PageContext, cell: Cell) -> None:
    st.markdown(f"###### In context{', highest gate weight first' if context.weighted else ''}")
    ask = {"layer": cell.layer, "expert": cell.expert, "stream": cell.stream, "per_prompt": 1}
    table = context.view("expert-contexts", limit=CONTEXTS, **ask)
    if not table.num_rows:
        _why_nothing(table, "No token of this selection uses the expert.")
        return
    st.html("".join(context_html(row) for row in table.to_pylist()))
    show.actions(
        show.numbers(table), name=f"layer-{cell.layer}-expert-{cell.expert}-contexts", key="drawer-contexts",
        python=context.snippet("expert-contexts", limit=CONTEXTS, **ask),
    )  # fmt: skip

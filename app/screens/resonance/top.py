"""The ranking with its certainty, the tokens behind it, and the way to steering."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ....store.schema import LayerExpert
from ....tracer.steering.rules import KINDS
from ...figures.thresholds import Threshold, survivors
from ...shell import messages, show
from ...shell.page_context import PageContext
from ...steering import offer
from ...text import words
from ...text.literal import isolated, left_to_right
from .. import token_names
from . import own_set
from .groups import Contrast

TOKENS_EACH = 5
QUICK_EVENTS = 5_000_000
"""Up to so many events the tokens are looked up without being asked for."""
RULES = ("off", "on", "zero", "scale")
"""Those that say something of experts which respond to a text."""
_NUMBER = st.column_config.NumberColumn
COLUMNS = {
    "rank": _NUMBER("#", width=44),
    "score": _NUMBER(format="%+.4f"),
    "effect": _NUMBER(format="%+.2f", help="score ÷ pooled standard deviation of the prompts"),
    "p": _NUMBER(format="%.2g"),
    "q": _NUMBER(format="%.2g", help="false discovery rate over all shown layers and experts"),
    "p_family": _NUMBER("p, family-wise", format="%.2g"),
    "stability": _NUMBER(
        format="percent", help="share of bootstraps of the prompts in which it is in the top N"
    ),
    "target_share": _NUMBER("share in A", format="percent"),
    "rest_share": _NUMBER("share in B", format="percent"),
    "tokens": st.column_config.TextColumn("tokens that make the difference", width="large"),
}


def draw(
    context: PageContext,
    table: pa.Table,
    contrast: Contrast,
    params: dict[str, Any],
    limit: Threshold,
    boxed: list[LayerExpert],
) -> None:
    """Draw the table and the steering beneath it; `boxed` are cells that were selected on the map."""
    top = params["among"]
    head = st.container()
    chosen = own_set.choose(context)
    head.subheader(f"Top {top}" if chosen is None else "The chosen experts", anchor=False)
    rows = table.slice(0, top) if chosen is None else own_set.rows_of(context, table, chosen)
    shown = rows.select([name for name in COLUMNS if name in rows.column_names])
    shown = shown.add_column(1, "layer", rows["layer"]).add_column(2, "expert", rows["expert"])
    if _with_tokens(context):
        with messages.loading(height=200):
            shown = shown.append_column("tokens", pa.array(token_lists(context, rows, params), pa.string()))
    marked = show.table(
        shown, name="resonance-top", python=context.snippet("resonance", **params, top=top), select="multi-row",
        key="top experts", columns=COLUMNS,
        say=f"Ranked over all shown layers. Stability: share of 200 bootstraps of the prompts in which the expert is "
        f"in the top {top}. A token's part of a score is what its occurrences add to it; the parts of all tokens sum "
        "to the score.",
    )  # fmt: skip
    cells = list(map(LayerExpert, rows["layer"].to_pylist(), rows["expert"].to_pylist()))
    found = boxed if chosen is None else cells
    _steering(context, table, contrast, params, limit, [cells[row] for row in marked] or found)


def _with_tokens(context: PageContext) -> bool:
    if context.trace.num_events <= QUICK_EVENTS:
        return True
    return st.toggle(
        f"find the tokens behind them (reads {words.count(context.trace.num_events)} events)",
        key="tokens behind",
    )


def token_lists(context: PageContext, rows: pa.Table, params: dict[str, Any]) -> list[str]:
    """The tokens that contribute most to each row's score, with their parts."""
    cells = list(map(LayerExpert, rows["layer"].to_pylist(), rows["expert"].to_pylist()))
    asked = {name: value for name, value in params.items() if name not in ("layers", "among", "ranking")}
    found = context.view("resonance-tokens", cells=cells, limit=TOKENS_EACH, **asked)
    of: dict[LayerExpert, list[str]] = {}
    for row, name in zip(found.to_pylist(), token_names.named(context, found), strict=True):
        text = name if row["token"] is not None else f"id {row['token_id']}"
        of.setdefault(LayerExpert(row["layer"], row["expert"]), []).append(
            f"{isolated(text.strip() or '␣')} {row['contribution']:+.3f}"
        )
    return [left_to_right("   ".join(of.get(cell, []))) for cell in cells]


def _steering(
    context: PageContext,
    table: pa.Table,
    contrast: Contrast,
    params: dict[str, Any],
    limit: Threshold,
    chosen: list[LayerExpert],
) -> None:
    st.subheader("To steering", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        rule = st.segmented_control(
            "Make them", RULES, default="off", key="rule", bind="query-params", required=True
        ) or "off"  # fmt: skip
        toward = st.segmented_control(
            "those that respond to", ["A", "B"], default="A", key="toward", bind="query-params", required=True,
            disabled=bool(chosen),
        )  # fmt: skip
        sure = st.toggle("only those that stand out", value=True, key="sure", disabled=bool(chosen))
        number, amounts = KINDS[rule].number, {}
        if number is not None and number.default is None:
            amounts["amount"] = st.number_input(
                number.label, number.least, 10.0, number.first, number.step,
                key="beta", bind="query-params", width=190,
            )  # fmt: skip
    cells = chosen or strongest(table, limit if sure else None, params["among"], toward == "B")
    whose = "selected" if chosen else contrast.names[1 if toward == "B" else 0]
    experts = words.amount(len(cells), "selected expert" if chosen else "expert")
    name = f"{rule} {experts}" if chosen else f"{rule} {experts} of {whose}"
    offer.offer(context, name, rule, cells, key="resonance", **amounts)
    if not cells:
        messages.say(f"No expert in that direction has {limit}; nothing is sent to steering.")
        return
    which = "The selected experts" if chosen else "The strongest in that direction"
    messages.say(f"{rule}: {KINDS[rule].summary}. {which}: {offer.listed(cells)}.")


def strongest(table: pa.Table, limit: Threshold | None, top: int, toward_rest: bool) -> list[LayerExpert]:
    """The `top` cells of largest score in one direction, of those that stand out (all where None)."""
    rows = (table if limit is None else survivors(table, limit)).to_pylist()
    sign = -1 if toward_rest else 1
    rows = sorted((row for row in rows if sign * row["score"] > 0), key=lambda row: -sign * row["score"])
    return [LayerExpert(row["layer"], row["expert"]) for row in rows[:top]]

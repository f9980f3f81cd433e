"""The contrast of the page: two groups of prompts, whose resonance can lie beneath the switchboard and whose
experts the presets take."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ...shell.page_context import PageContext
from ...text import words
from .switchboard import Underlay

LOAD, RESONANCE = "load", "resonance"
ALL_OTHERS = "all others"


def beneath_choice() -> None:
    """What lies beneath the switchboard."""
    st.segmented_control(
        "Beneath", [LOAD, RESONANCE], default=LOAD, key="beneath-board", bind="query-params", required=True,
        help="load: share of tokens of each expert. resonance: how much more one group of prompts uses it than "
        "the others.",
    )  # fmt: skip


def underlay(context: PageContext) -> Underlay | None:
    """The resonance scan beneath the board; None where the load was chosen, or nothing can be contrasted."""
    if st.session_state.get("beneath-board") != RESONANCE:
        return None
    chosen = choose(context, "board")
    if chosen is None:
        st.caption(
            "All prompts of this trace have the same values, so there is nothing to contrast. The load is shown."
        )
        return None
    table = scan(context, chosen)
    cells = table.select(["stream", "layer", "expert"]).append_column("value", table["score"])
    return Underlay(table=cells, label=f"share of tokens, {describe(chosen)}", diverging=True)


def choose(context: PageContext, place: str) -> dict[str, Any] | None:
    """Pick a contrast, as parameters of the view `resonance`; None where all prompts are alike."""
    tags = {name: values for name, values in context.trace.tags().items() if len(values) > 1}
    if not tags:
        return None
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        first = list(tags).index("language") if "language" in tags else 0
        by = st.selectbox("Groups by", list(tags), index=first, key=f"steer-by-{place}", width=130) or next(
            iter(tags)
        )
        values = tags[by]
        label = _name_of(by)
        target = st.selectbox("A", values, key=f"steer-target-{place}-{by}", width=140, format_func=label)
        others = [ALL_OTHERS, *(value for value in values if value != target)]
        rest = st.selectbox(
            "minus", others, key=f"steer-rest-{place}-{by}-{target}", width=140, format_func=label
        )
    return {"by": by, "target": target} | ({} if rest == ALL_OTHERS else {"rest": rest})


def _name_of(by: str):
    return lambda value: value if value == ALL_OTHERS else words.value_name(by, value)


def describe(contrast: dict[str, Any]) -> str:
    """`Japanese − all others`."""
    by = contrast["by"]
    rest = words.value_name(by, contrast["rest"]) if "rest" in contrast else ALL_OTHERS
    return f"{words.value_name(by, contrast['target'])} − {rest}"


def scan(context: PageContext, contrast: dict[str, Any]) -> pa.Table:
    """The resonance of every expert in the layer window, in rank order."""
    numbers = [router.layer for router in context.routers()]
    return context.view("resonance", layers=f"{min(numbers)}:{max(numbers)}", **contrast)

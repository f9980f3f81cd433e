"""Two groups of prompts picked by hand from a list; the picks stay in the address while they are few."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ...shell import link_check, messages, slice_menu
from ...shell.page_context import PageContext
from ...text import words
from ...text.literal import excerpt
from ..prompt_list import prompt_list

MOST_IN_ADDRESS = 40
MOST_LISTED = 2_000
SIDES = {"A": "pick-a", "B": "pick-b"}
"""Side → its name in the address."""
STATE = "picked prompts"


def choose(context: PageContext) -> tuple[dict[str, Any], tuple[str, str]] | None:
    """Draw the list; None until both sides have a prompt (B may be all others)."""
    picked = _picked(context)
    prompts = prompt_list(context)
    find = st.text_input("Find", key="find prompts", placeholder="words or an id", width=260)
    listed = prompts.find(find or "")[:MOST_LISTED]
    side_of = {one: side for side, ids in picked.items() for one in ids}
    rows = pa.table(
        {
            "side": pa.array([side_of.get(one, "") for one in listed], pa.string()),
            "prompt": listed,
            "language": pa.array([prompts.language(one) for one in listed], pa.string()),
            "text": [excerpt(prompts.about[one][2], 160) for one in listed],
        }
    )
    event = st.dataframe(
        rows, key="pick list", hide_index=True, height=250, on_select="rerun", selection_mode="multi-row",
        column_config={"side": st.column_config.TextColumn(width="small"),
                       "text": st.column_config.TextColumn(width="large")},
    )  # fmt: skip
    marked = [listed[row] for row in event["selection"]["rows"]]
    with st.container(horizontal=True, gap="small"):
        for side in (*SIDES, None):
            st.button(
                f"To {side}" if side else "To neither", key=f"to {side}", disabled=not marked,
                on_click=_move, args=(picked, marked, side),
            )  # fmt: skip
        st.button("Clear", key="clear picks", disabled=not side_of, type="tertiary", on_click=_move,
                  args=({}, [], None))  # fmt: skip
        for side, ids in picked.items():
            where = {"prompt_id": ids} if ids else None
            slice_menu.save(context.trace, where=where, key=f"picks-{side}", label=f"Save {side} as slice")
    messages.say(
        f"{words.amount(len(picked['A']), 'prompt')} in A, {len(picked['B'])} in B"
        f"{'' if picked['B'] else ' (then B is all others)'}. Mark rows, then say where they go."
    )
    if not picked["A"]:
        return None
    params: dict[str, Any] = {"by": "prompt_id", "target": picked["A"]}
    if picked["B"]:
        params["rest"] = picked["B"]
    return params, ("picked for A", "picked for B" if picked["B"] else "all others")


def _picked(context: PageContext) -> dict[str, list[str]]:
    """The picks of this trace: of the session, else of the address."""
    known = set(context.trace.prompts()["prompt_id"].to_pylist())
    kept = st.session_state.get(STATE)
    if kept is None:
        kept = {side: st.query_params.get_all(name) for side, name in SIDES.items()}
    picked = {side: [one for one in kept.get(side, []) if one in known] for side in SIDES}
    picked["B"] = [one for one in picked["B"] if one not in picked["A"]]
    for side, name in SIDES.items():
        if picked[side] and sum(map(len, picked.values())) <= MOST_IN_ADDRESS:
            st.query_params[name] = picked[side]
        else:
            st.query_params.pop(name, None)
            if picked[side]:
                link_check.leave_out(
                    f"the picks of {side}, more than {MOST_IN_ADDRESS}: save them as a slice"
                )
    return picked


def _move(picked: dict[str, list[str]], marked: list[str], to: str | None) -> None:
    moved = {side: [one for one in picked.get(side, []) if one not in marked] for side in SIDES}
    if to is not None:
        moved[to] += marked
    st.session_state[STATE] = moved

"""Experts over the patches of an image, where prompts carry a grid and a picture."""

from __future__ import annotations

import pyarrow as pa
import streamlit as st

from ..figures.patch_overlay import SIDE, patch_overlay
from ..shell import messages, show
from ..shell.page_context import PageContext
from ..text import words
from ..text.picture import grid_of, pixels_of
from .prompt_list import PromptList
from .token_view import TokenText

MOST = 4
"""Prompts of one image, as its tasks, that stand side by side."""


def draw(context: PageContext, prompts: PromptList, prompt: str, layer: int, first: TokenText) -> None:
    """The patches of the prompt and, beside it, of those with its parallel_id; nothing where it has no grid."""
    tags = tags_of(context, prompt)
    grid = grid_of(tags)
    if grid is None or grid[0] * grid[1] != len(first.arrays.tokens):
        return
    st.subheader("Experts over the image", anchor=False)
    shown = [
        prompt,
        *(other for other in prompts.parallel(prompt) if grid_of(tags_of(context, other)) == grid),
    ][:MOST]
    found = {each: experts_of(context, each, layer) for each in shown}
    for column, each in zip(show.side_by_side(len(shown), key="patches"), shown, strict=True):
        table = found[each]
        with column, st.container(width=SIDE):
            st.caption(words.label(each))
            show.chart(
                lambda theme, each=each, table=table: patch_overlay(
                    pixels_of(tags_of(context, each)), grid, table["first_expert"].to_pylist(),
                    names=table["token"].to_pylist(), theme=theme,
                ),
                table, name=f"patches-{shown.index(each) + 1}",
                title=f"First expert of each patch: {each}, layer {layer}",
                say=f"Layer {layer}: the patches go first to "
                f"{words.amount(len({*table['first_expert'].to_pylist()}), 'expert')}.",
            )  # fmt: skip
    if len(shown) > 1:
        own = found[prompt]["first_expert"].to_pylist()
        for other in shown[1:]:
            moved = sum(a != b for a, b in zip(own, found[other]["first_expert"].to_pylist(), strict=True))
            messages.say(f"{moved} of {len(own)} patches have another first expert in {other}.")


def tags_of(context: PageContext, prompt: str) -> dict[str, str]:
    """The tags of a prompt."""
    table = context.trace.prompts()
    row = table["prompt_id"].index(prompt).as_py()
    return dict(table["tags"][row].as_py() or []) if row >= 0 else {}


def experts_of(context: PageContext, prompt: str, layer: int) -> pa.Table:
    """Token, position and first expert of each patch at a layer; -1 for none."""
    events = context.trace.events(prompt, layer=layer, stream=context.stream)
    names = context.trace.tokens(prompt)["token"].to_pylist()
    first = {
        at: ids[0] if ids else -1
        for at, ids in zip(events["position"].to_pylist(), events["experts"].to_pylist(), strict=True)
    }
    positions = range(len(names))
    return pa.table(
        {"position": list(positions), "token": names, "first_expert": [first.get(at, -1) for at in positions]}
    )

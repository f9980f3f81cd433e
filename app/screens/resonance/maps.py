"""What a difference is made of: the mean maps of both groups, single prompts, and the scan running."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ...figures import resonance as figures
from ...figures.multiples import small_maps
from ...sentences import resonance as sentences_resonance
from ...shell import messages, show
from ...shell.page_context import PageContext
from .. import expert_drawer
from ..prompt_list import prompt_list
from . import scan_player
from .groups import Contrast
from .scan import MEASURES

MOST_LISTED = 500
SPAN = ("measure", "special", "phase", "completion", "last")


def draw(context: PageContext, table: pa.Table, contrast: Contrast, params: dict[str, Any]) -> None:
    """Draw the section, folded until it is asked for."""
    what = st.segmented_control(
        "Look behind the difference", ["maps", "animation"], key="behind", bind="query-params",
        format_func={"maps": "group means and single prompts", "animation": "the scan running"}.__getitem__,
    )  # fmt: skip
    if what is None:
        return
    pair = _pair(context, contrast)
    with messages.guarded("The prompts could not be shown"):
        if what == "maps":
            _maps(context, table, pair, params)
        else:
            _animation(context, pair, params)


def _pair(context: PageContext, contrast: Contrast) -> tuple[str, str]:
    """A prompt of A and one of B; at first B's translation of A's where there is one."""
    prompts = prompt_list(context)
    chosen = []
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        for side, letter in (("target", "A"), ("rest", "B")):
            ids = contrast.ids(side)
            partner = set(prompts.parallel(chosen[0])) if chosen else set()
            first = next((one for one in ids if one in partner), ids[0])
            listed = ids[:MOST_LISTED]
            listed = listed if first in listed else [first, *listed]
            key = f"prompt {letter}"
            if st.session_state.get(key) not in listed:
                st.session_state[key] = first
            chosen.append(
                st.selectbox(f"A prompt of {letter}", listed, key=key, format_func=prompts.label, width=430)
            )
    return chosen[0], chosen[1]


def _maps(context: PageContext, table: pa.Table, pair: tuple[str, str], params: dict[str, Any]) -> None:
    asked = {name: params[name] for name in (*SPAN, "layers") if name in params}
    single = context.view("prompt-maps", prompts=list(pair), **asked)
    titles = dict(zip(pair, (f"A: {pair[0]}", f"B: {pair[1]}"), strict=True))
    maps = figures.group_maps(table, single, titles)
    there = [titles[one] for one in pair if one in single["prompt_id"].to_pylist()]
    names: dict[str | None, str] = {"A": "A, mean of prompts", "B": "B, mean of prompts"}
    names |= {title: title for title in there}
    measure = params["measure"]
    points = show.chart(
        lambda theme: small_maps(
            maps, "value", "map", names, theme=theme, label=MEASURES[measure],
            value_format=".1%" if measure == "rate" else ".3g",
        ),
        maps, name="resonance-maps", key="behind maps", title="Group means and single prompts", select="cell",
        say=sentences_resonance.maps(maps, MEASURES[measure]),
        python=context.snippet("prompt-maps", prompts=list(pair), **asked),
    )  # fmt: skip
    expert_drawer.choose(points, place="maps")


def _animation(context: PageContext, pair: tuple[str, str], params: dict[str, Any]) -> None:
    asked = {name: params[name] for name in ("layers", "special") if name in params}
    with messages.loading(height=300):
        steps = context.view("prompt-scan", prompt_a=pair[0], prompt_b=pair[1], **asked)
    film = scan_player.film(steps, f"{pair[0]} − {pair[1]}")
    scan_player.play(film, theme=context.theme, key="player")
    show.actions(
        {"GIF": lambda: scan_player.to_gif(film), "HTML": lambda: scan_player.to_html(film)} | show.numbers(steps),
        name=f"scan-{pair[0]}-{pair[1]}", key="player",
        python=context.snippet("prompt-scan", prompt_a=pair[0], prompt_b=pair[1], **asked),
    )  # fmt: skip
    messages.say(
        "Share of A's tokens so far − share of B's; both prompts run to their ends together. "
        "The first frames rest on few tokens, so they are strong and mean little."
    )

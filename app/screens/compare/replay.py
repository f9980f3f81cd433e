"""Does the difference matter? B's routing replayed in A's model: as a rule on Steer, and how much of the difference
between the two models it carries (`attributing`)."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ....store.compare import Pairs
from ...shell import messages, travel
from ...shell.page_context import PageContext
from ...steering import profiles
from ...steering.replay import name_in_library, replay_rules
from . import attributing


def draw(context: PageContext, pairs: Pairs, prompt: str | None) -> None:
    """Draw the section.

    Args:
        prompt: the prompt that is chosen above; it goes to Steer with the rule.
    """
    st.subheader("Does the difference matter?", anchor=False)
    messages.say(
        "Replay makes A's model execute the experts that B recorded, with A's own gate weights: what changes then is "
        "the effect of the choice of experts alone."
    )
    name = name_in_library(str(context.second_url))
    if name is None:
        messages.note(
            "plain",
            f"A live model replays traces of the library only, and “{context.second_name}” lies elsewhere. "
            "`moescope compare A B --attribute MODEL` takes any address.",
        )
        return
    rules = replay_rules(name, pairs.routers, context.trace.routers)
    _to_steer(context, name, rules, prompt)
    attributing.draw(context, pairs, rules)


def _to_steer(context: PageContext, name: str, rules: list[dict[str, Any]], prompt: str | None) -> None:
    """The button: prompt tokens are replayed, generated ones are the model's own."""
    made = profiles.profile(
        f"routing of {name}",
        context.trace.manifest.model.get("name"),
        [rule | {"span": "prompt"} for rule in rules],
    )
    ask = {} if prompt is None else {"ask": _text_of(context, prompt)}
    st.button(
        "Send as rule to Steer", icon=":material/toggle_on:", key="replay-steer", on_click=travel.to, args=("steer",),
        kwargs={"profile": profiles.in_address(made), **ask},
        help="With the prompt that is chosen above. Its tokens are replayed; what is generated is the model's own.",
    )  # fmt: skip


def _text_of(context: PageContext, prompt: str) -> str:
    table = context.trace.prompts()
    return table["text"][table["prompt_id"].to_pylist().index(prompt)].as_py() or ""

"""Learn a logit vector a layer from a text, and put it among the rules ("Rewiring Experts on the Fly")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from ....tracer.client import ServerError
from ...shell import messages as states
from ...steering.answers import Answers
from ...steering.edit import Rules
from ...steering.history import Draft
from ...text import words
from . import prompt as steer_prompt
from . import state as steer_state
from .server import Served

PROMPT, ANSWER, OTHER = "the prompt", "the prompt and the steered answer", "another text"
LAYERS = {
    "all": "all layers",
    "most_confident": "the half with the most confident choices",
    "least_confident": "the half with the least confident choices",
}
_LEARNED = "steer learned"


@dataclass(frozen=True)
class Learned:
    """What came of it, for as long as its vector is among the rules."""

    losses: tuple[float, ...]
    tokens: int
    rules: Rules

    def sentence(self) -> str:
        first, last = self.losses[0], self.losses[-1]
        how = "fell" if last < first else "rose" if last > first else "stayed"
        layers = words.amount(sum(len(rule.layers or ()) for rule in self.rules), "layer")
        steps = words.amount(len(self.losses) - 1, "step")
        return (
            f"In {steps} the loss of the text ({words.amount(self.tokens, 'token')}) {how} from {first:.3f} to "
            f"{last:.3f} nats a token; one vector in each of {layers}."
        )


def draw(served: Served) -> None:
    """The form and what the last learning brought."""
    st.caption(
        "A few steps of gradient descent on the router logits alone: all weights stay as they are "
        "(arXiv 2510.14853). The other rules act meanwhile."
    )
    source = st.selectbox("Learn from", [PROMPT, ANSWER, OTHER], key="steer-learn-from")
    if source == OTHER:
        st.text_area("Text", key="steer-learn-text", height=90)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.number_input("n: steps", 0, 100, 5, key="steer-learn-steps", width=110)
        st.number_input("η: size of a step", 0.0, 100.0, 0.05, 0.01, key="steer-learn-rate", width=140)
        st.selectbox("Layers", list(LAYERS), key="steer-learn-layers", format_func=LAYERS.__getitem__)
    vectors, _ = _split(steer_state.draft().rules)
    renew = st.toggle(
        "go on from the vector that is there", key="steer-learn-renew", value=True, disabled=not vectors,
        help="Off: it is learned anew, from zero.",
    )  # fmt: skip
    text = _text(source or PROMPT)
    with st.container(horizontal=True, gap="small"):
        pressed = st.button(
            "Learn", type="primary", key="steer-learn-go", disabled=served.client is None or not text.strip()
        )
        st.button("Forget the vector", key="steer-learn-forget", on_click=_forget, disabled=not vectors)
    if pressed:
        _learn(served, text, start=bool(vectors) and renew)
    learned: Learned | None = st.session_state.get(_LEARNED)
    if learned is not None and learned.rules == vectors:
        states.say(learned.sentence())
    if served.client is None:
        states.say("The model must run to learn.")


def _text(source: str) -> str:
    """What is learned from. An answer only where it is of the prompt that stands there now."""
    prompt = steer_prompt.request().prompt
    if source == OTHER:
        return str(st.session_state.get("steer-learn-text") or "")
    answers: Answers | None = st.session_state.get("steer result")
    if source == ANSWER:
        return prompt + answers.text("steered") if answers is not None and answers.prompt == prompt else ""
    return prompt


def _learn(served: Served, text: str, *, start: bool) -> None:
    state = st.session_state
    vectors, others = _split(steer_state.draft().rules)
    assert served.client is not None
    chat = steer_prompt.request().chat and state.get("steer-learn-from") == PROMPT
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    try:
        with st.spinner("Learning"):
            answer = served.client.rewire(
                **asked, steering=Draft(others).to_json() if others else None,
                start=Draft(vectors).to_json() if start else None, steps=int(state["steer-learn-steps"]),
                learning_rate=float(state["steer-learn-rate"]), layers=state["steer-learn-layers"],
            )  # fmt: skip
    except ServerError as error:
        states.card("Nothing was learned", str(error), kind="error",
                    todo="The rules are as they were. Choose another text, or smaller steps.")  # fmt: skip
        return
    rules = Draft.from_json(answer["steering"]).rules
    state[_LEARNED] = Learned(tuple(answer["losses"]), int(answer["tokens"]), rules)
    steer_state.edit(lambda _: (*others, *rules))
    steer_state.redraw()


def _forget() -> None:
    steer_state.edit(lambda rules: _split(rules)[1])


def _split(rules: Rules) -> tuple[Rules, Rules]:
    """The learned vectors among some rules, and the others."""
    vectors = tuple(rule for rule in rules if rule.kind.has_vector)
    return vectors, tuple(rule for rule in rules if not rule.kind.has_vector)

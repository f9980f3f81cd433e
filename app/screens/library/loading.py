"""How a model is loaded and run for a new trace, where that must be said: behind a fold, as most never need it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ....tracer.errors import UnknownRouterError
from ....tracer.routers.declaration import SYNTAX, read_fields
from ...shell import messages as states

AS_IT_SAYS = "as the checkpoint says"
ATTENTION = (AS_IT_SAYS, "sdpa", "eager")
DTYPES = ("auto", "float32", "bfloat16", "float16")
NOISE_PROMPTS = 16


def draw() -> dict[str, Any]:
    """Draw the fold; the options of a trace job that were set in it."""
    with st.expander("Loading and precision", key="new-loading"):
        left, right = st.columns(2)
        dtype = left.selectbox(
            "Number format", DTYPES, key="new-dtype", help="auto: as the checkpoint is stored."
        )
        attention = right.selectbox(
            "Attention", ATTENTION, key="new-attention",
            help="Another implementation than the checkpoint asks for, where that is not installed.",
        )  # fmt: skip
        routers = st.text_area(
            "Declared routers, one a line", key="new-routers", placeholder=SYNTAX, height=68,
            help="For a model whose routers are not found automatically, such as "
            "`model.layers.*.mlp.gate,experts=8,top_k=2,ids=0,weights=1`.",
        )  # fmt: skip
        lines = [line.strip() for line in (routers or "").splitlines() if line.strip()]
        problem = _problem(lines)
        if problem:
            states.say(problem)
        missing = st.toggle(
            "load a checkpoint that lacks weights", key="new-missing",
            help="Otherwise such a checkpoint is refused, because the missing weights would be random. The trace names "
            "them.",
        )  # fmt: skip
        again = st.toggle(
            "reproducible: eager attention, one prompt a batch", key="new-reproducible",
            help="No prompt's routing then depends on the prompts beside it. Slow.",
        )  # fmt: skip
        noise = st.toggle(
            f"measure the noise floor on {NOISE_PROMPTS} prompts", key="new-noise",
            help="How much of the routing changes with batches, threads, attention and number format alone; "
            "kept in the trace and shown where it is compared. Takes a second copy of the model for a while.",
        )  # fmt: skip
    options: dict[str, Any] = {} if dtype in (None, "auto") else {"dtype": dtype}
    options |= {} if attention in (None, AS_IT_SAYS) else {"attn_implementation": attention}
    options |= {"routers": lines} if lines and not problem else {}
    options |= {"allow_missing": True} if missing else {}
    options |= {"attn_implementation": "eager", "batch_size": 1} if again else {}
    return (
        options
        | ({"noise_prompts": NOISE_PROMPTS} if noise else {})
        | ({"problem": problem} if problem else {})
    )


def _problem(lines: list[str]) -> str:
    """What is wrong with a declaration; empty where nothing is."""
    for line in lines:
        try:
            read_fields(line)
        except UnknownRouterError as error:
            return str(error)
    return ""

"""What the model is asked: the prompt, where it may come from, and how it samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from ....store import sample_dir
from ....tracer.prompts.prompt import PromptSetError
from ....tracer.prompts.prompt_set import PromptSet
from ...shell import messages, sources
from ...shell.page_context import PageContext
from ...text import words
from ...text.literal import excerpt
from ..library.new_trace import UPLOADS
from ..prompt_list import prompt_list

FIRST_WORDS = 6
NEW_TOKENS = 40
THIS_TRACE = "this trace"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for."""

    prompt: str
    sampling: dict[str, Any]
    chat: bool = False


def draw(context: PageContext, *, has_chat: bool, limits: dict[str, Any]) -> None:
    """The prompt box and the sampling settings; `request` tells what they say."""
    st.text_area(
        "Prompt",
        value=_first(context),
        key="ask",
        bind="query-params",
        height=90,
        placeholder="Text to continue",
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="steer-settings"):
        with st.popover(
            "From a prompt set", icon=":material/list:", type="tertiary", key="steer-rows", on_change="rerun"
        ) as popover:
            if popover.open:  # A list of a thousand prompts would be sent with every change.
                _rows(context)
        _sampling(int(limits.get("new_tokens", 512)))
        if has_chat:
            st.toggle("as chat", key="steer-chat", help="Apply the model's chat template.")


def _sampling(most: int) -> None:
    with st.popover(_sampling_label(), icon=":material/tune:", type="tertiary", key="steer-sampling"):
        st.number_input("Tokens to generate", 1, most, min(NEW_TOKENS, most), key="new", bind="query-params")
        temperature = st.number_input(
            "Temperature (0: the likeliest token)", 0.0, 5.0, 0.0, 0.1, key="temperature", bind="query-params"
        )
        off = not temperature
        st.number_input("top-p", 0.01, 1.0, 1.0, 0.05, key="top_p", bind="query-params", disabled=off)
        st.number_input("Seed", 0, None, 0, key="seed", bind="query-params", disabled=off)
        st.caption("Both sides draw with the same seed: where the models agree, so do their draws.")


def _sampling_label() -> str:
    """The settings in a few words. In the first run only the address knows them."""

    def said(name: str) -> str:
        return str(st.session_state.get(name) or st.query_params.get(name) or "")

    try:
        temperature = float(said("temperature") or 0)
    except ValueError:
        temperature = 0.0
    how = f"temperature {temperature:g}, seed {said('seed') or 0}" if temperature else "greedy"
    return words.label(f"{said('new') or NEW_TOKENS} tokens, {how}")


def request() -> Request:
    """What the widgets say now, also where they were drawn by an earlier run."""
    state = st.session_state
    sampling = {
        "max_new_tokens": int(state.get("new") or NEW_TOKENS), "temperature": float(state.get("temperature") or 0.0),
        "top_p": float(state.get("top_p") or 1.0), "seed": int(state.get("seed") or 0),
    }  # fmt: skip
    return Request(prompt=state.get("ask") or "", sampling=sampling, chat=bool(state.get("steer-chat")))


def _first(context: PageContext) -> str:
    """The first words of the first prompt that passes the filter."""
    prompts = prompt_list(context)
    start = next((text for _, _, text in prompts.about.values() if text.strip()), "")
    return " ".join(start.split()[:FIRST_WORDS])[:200]


def _rows(context: PageContext) -> None:
    files = {path.name: path for path in sorted(sample_dir().glob("*.csv"))}
    files |= {path.name: path for path in sorted((sources.library() / UPLOADS).glob("*")) if path.is_file()}
    source = st.selectbox("Prompts of", [THIS_TRACE, *files], key="steer-source")
    texts = _of_trace(context) if source in (None, THIS_TRACE) else _of_file(files[source])
    if not texts:
        messages.say("No prompt passes the filter.")
        return
    chosen = st.selectbox(
        "Prompt",
        list(texts),
        key=f"steer-row-{source}",
        format_func=lambda key: f"{key} · {excerpt(texts[key], 60)}",
    )
    whole = st.toggle("the whole text (else its first words)", key="steer-whole-text", value=True)
    st.button(
        "Take it", type="primary", key="steer-take", on_click=_take, args=(texts.get(chosen or "", ""), whole)
    )


def _take(text: str, whole: bool) -> None:
    st.session_state["ask"] = text if whole else " ".join(text.split()[:FIRST_WORDS])[:200]


def _of_trace(context: PageContext) -> dict[str, str]:
    return {name: text for name, (_, _, text) in prompt_list(context).about.items()}


def _of_file(path: Path) -> dict[str, str]:
    try:
        return _texts(str(path), path.stat().st_mtime_ns)
    except (PromptSetError, OSError) as error:
        messages.card("This prompt set can't be used", str(error), kind="error")
        return {}


@st.cache_data(max_entries=8, show_spinner=False)
def _texts(path: str, stamp: int) -> dict[str, str]:
    return {prompt.id: prompt.text for prompt in PromptSet.from_file(path)}

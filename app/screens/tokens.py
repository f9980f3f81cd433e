"""Tokens: one prompt's text with every token's experts, and a translation of it beneath."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import streamlit as st

from ...kernels.counting.locality import repeated_assignment, repeated_assignment_chance
from ...store.schema import Cell
from ..figures.token_arrays import TokenArrays, token_arrays
from ..figures.token_grid import token_grid
from ..shell import link_check, messages, show
from ..shell.page_context import PageContext, asked, remember
from ..text import words
from ..text.graphemes import runs
from . import expert_drawer, patches, try_text
from .prompt_list import PromptList, prompt_list
from .token_view import TokenText, standalone, token_view

WINDOW = 300
MOST_LISTED = 300


def page(context: PageContext) -> None:
    """Draw the page."""
    st.title("Tokens", anchor=False)
    prompts = prompt_list(context)
    link_check.look("prompt", prompts.about, what="the prompt")
    link_check.look("layer", [router.layer for router in context.routers()])
    link_check.tell("prompt", "layer")
    if not len(prompts):
        messages.empty(
            "No prompt passes the filter",
            "This page shows one prompt's text, token by token.",
            todo="Widen the filter in the bar above.",
        )
        return
    chosen = [prompt for prompt in _choose(prompts) if prompt]
    with messages.loading(height=300):
        tables = {prompt: _events(context, prompt) for prompt in chosen}
        texts = [_text(prompts, prompt, table) for prompt, table in tables.items() if table.num_rows]
    tried = try_text.draw(context)
    if tried is not None and tried.num_rows:
        texts.append(TokenText(title="Your text", language=None, arrays=token_arrays(tried)))
    if not texts:
        messages.empty("No events", "The chosen prompt has no routing events in the layer window.")
        return
    start = _window(texts)
    texts = [replace(text, arrays=text.arrays.window(*_whole(text.arrays, start))) for text in texts]
    numbers = pa.concat_tables(tables.values())
    layer = _words(context, texts, numbers)
    if start == 0:
        patches.draw(context, prompts, chosen[0], layer, texts[0])
    for number, text in enumerate(texts):
        _grid(context, text, numbers, number)
    if cell := expert_drawer.chosen():
        expert_drawer.draw(context, cell)


def _choose(prompts: PromptList) -> tuple[str, str | None]:
    """The prompt, and a parallel one beneath it; both in the URL."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        find = st.text_input("Find", key="find", placeholder="words or an id", width=200)
        listed = prompts.find(find)[:MOST_LISTED]
        linked = asked("prompt")
        # A prompt that a link chose stays in the list when the page runs again, however far down it is.
        here = linked or (None if find else st.session_state.get("prompt choice"))
        if here is not None and here in prompts and here not in listed:
            listed.append(here)
        if not listed:
            messages.note("plain", "No prompt contains that.")
            listed = prompts.find("")[:MOST_LISTED]
        if linked in listed or st.session_state.get("prompt choice") not in listed:
            st.session_state["prompt choice"] = linked if linked in listed else listed[0]
        label = f"Prompt ({words.count(len(prompts))})"
        chosen = st.selectbox(label, listed, format_func=prompts.label, key="prompt choice", width=520,
                              on_change=link_check.forget, args=("prompt",))  # fmt: skip
        remember("prompt", chosen if chosen != listed[0] else None)
        return chosen, _beneath(prompts, chosen)


def _beneath(prompts: PromptList, chosen: str) -> str | None:
    by_language = {prompts.language(p) or p: p for p in prompts.parallel(chosen)}
    if not by_language:
        return None
    linked = asked("beneath")
    if linked in by_language or st.session_state.get("beneath choice") not in by_language:
        st.session_state["beneath choice"] = linked if linked in by_language else None
    language = st.selectbox(
        "Beneath it", list(by_language), format_func=words.language_name, key="beneath choice", index=None,
        placeholder="no translation", width=200,
    )  # fmt: skip
    remember("beneath", language)
    return by_language[language] if language else None


def _events(context: PageContext, prompt: str) -> pa.Table:
    table = context.in_window(context.view("prompt-tokens", prompt_id=prompt))
    return table.add_column(0, "prompt_id", pa.array([prompt] * table.num_rows, pa.string()))


def _text(prompts: PromptList, prompt: str, table: pa.Table) -> TokenText:
    language = prompts.language(prompt)
    title = f"{words.language_name(language)}, {prompt}" if language else prompt
    return TokenText(title=title, language=language, arrays=token_arrays(table))


def _words(context: PageContext, texts: list[TokenText], numbers: pa.Table) -> int:
    """The text with its experts; the layer that is shown."""
    layers = texts[0].arrays.layers
    linked = st.query_params.get("layer", "")
    layer = int(linked) if linked.isdecimal() and int(linked) in layers else layers[0]
    layer, clicked = token_view(texts, layer=layer, stream=context.stream, theme=context.theme, key="text")
    remember("layer", str(layer) if layer != layers[0] else None)
    if clicked:
        expert_drawer.name_in_address(Cell.parse(clicked))
    messages.say(" ".join(_sentence(context, text, layer) for text in texts))
    show.actions(
        {"HTML": lambda: standalone(texts, layer=layer, title=f"Layer {layer}"), **show.numbers(numbers)},
        name="tokens",
        key="text-actions",
        python=context.snippet("prompt-tokens", prompt_id=numbers["prompt_id"][0].as_py()),
    )
    return layer


def _window(texts: list[TokenText]) -> int:
    longest = max(len(text.arrays.tokens) for text in texts)
    if longest <= WINDOW:
        return 0
    start = st.slider("from token", 0, longest - 1, 0, step=WINDOW // 2, key="from", bind="query-params")
    messages.say(f"The longest prompt has {words.count(longest)} tokens; {WINDOW} are shown at a time.")
    return start


def _whole(arrays: TokenArrays, start: int) -> tuple[int, int]:
    """The window from a token on, without half a character at its ends."""
    found = [
        run
        for run in runs(arrays.tokens, apart=arrays.special)
        if run.end > start and run.first < start + WINDOW
    ]
    return (found[0].first, found[-1].end) if found else (start, start + WINDOW)


def _sentence(context: PageContext, text: TokenText, layer: int) -> str:
    if layer not in text.arrays.layers:
        return f"{text.title}: no events at layer {layer}."
    ids_TK = text.arrays.ids_LTK[text.arrays.layers.index(layer)]
    first = [expert for expert in ids_TK[:, 0].tolist() if expert >= 0] if ids_TK.shape[1] else []
    experts = context.trace.router(layer, context.stream).num_experts
    if len(first) < 2:
        return f"{text.title}: too few tokens to compare at layer {layer}."
    # Of all tokens: two that a token without an expert stands between are no neighbours.
    again = float(repeated_assignment(ids_TK, depth=1))
    chance = float(repeated_assignment_chance(experts, depth=1))
    return (
        f"{text.title}: at layer {layer}, {words.amount(len(first), 'token')} go first to "
        f"{len(set(first))} of {experts} experts; {words.percent(again)} of neighbouring tokens share "
        f"their first expert, chance {words.percent(chance)}."
    )


def _grid(context: PageContext, text: TokenText, numbers: pa.Table, number: int) -> None:
    points = show.chart(
        lambda theme: token_grid(text.arrays, stream=context.stream, theme=theme),
        numbers,
        name=f"token-grid-{number + 1}",
        title=f"First expert by token and layer: {text.title}",
        say="Colour: the expert with the largest gate weight of each token at each layer. A click opens the expert.",
        python=context.snippet("prompt-tokens", prompt_id=numbers["prompt_id"][0].as_py()),
        select="cell",
    )
    expert_drawer.choose(points, place=f"grid {number}")

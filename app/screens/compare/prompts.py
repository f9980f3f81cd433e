"""Prompts by how much changed, and one of them token by token."""

from __future__ import annotations

import html

import pyarrow as pa
import streamlit as st

from ...figures import agreement as figures
from ...shell import messages, show
from ...shell.page_context import PageContext, asked, remember
from ...text import words
from ...text.graphemes import runs
from ...text.literal import visible
from .choice import Choice

LISTED = 200
PARTS = " “parts at” is the position of the first other token id: from there on nothing is compared."
MOST_TOKENS = 400


def draw(context: PageContext, choice: Choice) -> str | None:
    """Draw the list of prompts and the chosen one; returns its id, None where no prompt is paired."""
    st.subheader("Prompts, most changed first", anchor=False)
    table = choice.view(context, "agreement-prompts")
    if not table.num_rows:
        return None
    listed = table.slice(0, LISTED)
    known = [name for name in listed.column_names if listed[name].null_count < listed.num_rows]
    rows = show.table(
        listed, name="compare-prompts", select="single-row", height=240,
        say=f"{words.count(min(LISTED, table.num_rows))} of {words.amount(table.num_rows, 'prompt')}; choose one "
        f"to see its tokens.{PARTS if 'parts_at' in known else ''}",
        python=choice.python(context, "agreement-prompts"),
        order=known,
        columns={"flip_rate": st.column_config.NumberColumn("flip rate", format="percent"),
                 "parts_at": "parts at", "parts_in": "parts in", "flipped_tokens": "flipped tokens"},
    )  # fmt: skip
    ids = table["prompt_id"].to_pylist()
    linked = asked("prompt")
    if rows:
        prompt = listed["prompt_id"][rows[0]].as_py()
    else:
        prompt = linked if linked in ids else st.session_state.get("url prompt") or ids[0]
    prompt = prompt if prompt in ids else ids[0]
    remember("prompt", prompt if prompt != ids[0] else None)
    with messages.guarded("The prompt could not be shown"):
        _one(context, choice, str(prompt))
    return str(prompt)


def _one(context: PageContext, choice: Choice, prompt: str) -> None:
    table = choice.view(context, "agreement-of-prompt", prompt_id=prompt)
    if not table.num_rows:
        messages.note("plain", "No token of this prompt is paired.")
        return
    positions = table["position"].to_pylist()
    shown = table.filter(pa.array([place < MOST_TOKENS for place in positions]))
    _text(shown)
    tokens, flipped = len(set(positions)), len(_flipped(table))
    cut = f" The first {MOST_TOKENS} tokens are drawn." if tokens > MOST_TOKENS else ""
    show.chart(
        lambda theme: figures.prompt_grid(shown, theme=theme), table, name="compare-prompt", key="prompt-grid",
        title=f"Prompt {prompt}: which decisions changed",
        say=f"Prompt {prompt}: {words.amount(flipped, 'token')} of {words.count(tokens)} "
        f"{'has' if flipped == 1 else 'have'} another set of experts in some layer; underlined above. Rest the pointer "
        f"on a cell for the experts of both sides (A: {context.name}, B: {context.second_name}).{cut}",
        python=choice.python(context, "agreement-of-prompt", prompt_id=prompt),
    )  # fmt: skip


def _flipped(table: pa.Table) -> dict[int, list[int]]:
    """Position → the layers in which its set differs."""
    found: dict[int, list[int]] = {}
    rows = zip(
        table["position"].to_pylist(), table["layer"].to_pylist(), table["flipped"].to_pylist(), strict=True
    )
    for position, layer, flip in rows:
        if flip:
            found.setdefault(position, []).append(layer)
    return found


def _flip(position: int, layers: list[int]) -> str:
    where = f"another set in {words.amount(len(layers), 'layer')}: {words.listing(map(str, layers), most=8)}"
    return f"position {position}, {where}"


def _text(table: pa.Table) -> None:
    """The text with flipped tokens marked; everything that comes from the prompt is escaped."""
    flips = _flipped(table)
    pieces = dict(zip(table["position"].to_pylist(), table["token"].to_pylist(), strict=True))
    positions = sorted(pieces)
    marked = []
    for run in runs([pieces[position] or "" for position in positions]):
        text = html.escape(visible(run.text) or "∅")
        where = [
            _flip(position, flips[position])
            for position in positions[run.first : run.end]
            if position in flips
        ]
        kind, title = ("mark", f' title="{"; ".join(where)}"') if where else ("span", "")
        at = f'data-position="{positions[run.first]}" data-tokens="{run.end - run.first}"'
        marked.append(f"<{kind} {at}{title}>{text}</{kind}>")
    st.html(f'<p class="ms-compared" dir="auto">{"".join(marked)}</p>')

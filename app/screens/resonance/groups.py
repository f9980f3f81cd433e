"""Who is contrasted with whom: by a tag, a condition, hand-picked prompts, or what was answered."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import streamlit as st

from ....store.arrow import pc
from ....store.slices import Slice
from ...shell import link_check, messages, slice_menu
from ...shell.page_context import PageContext
from ...text import words
from ...text.literal import excerpt
from . import classes as resonance_classes
from . import picks

WAYS = {
    "tag": "a tag",
    "condition": "a condition",
    "picked": "picked prompts",
    "slice": "slices",
    "class": "what was answered",
}
ALL_OTHERS = "all others"
EXAMPLES = 2


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two groups of prompts."""

    params: dict[str, Any]
    """What views take: by, target, and rest, rules or classes."""
    names: tuple[str, str]
    """What the groups are called."""
    prompts: pa.Table
    """Of the view `contrast-prompts`."""

    def ids(self, side: str) -> list[str]:
        """prompt_ids of `target` or `rest`."""
        return self.prompts.filter(pc.equal(self.prompts["side"], side))["prompt_id"].to_pylist()


def choose(context: PageContext) -> Contrast | None:
    """Draw the controls and a card for each group; None where there are no two groups yet."""
    # Streamlit knows a choice in the address by its label.
    link_check.look("groups", WAYS.values(), what="groups by")
    way = st.segmented_control(
        "Two groups of prompts, by", list(WAYS), default="tag", key="groups", bind="query-params", required=True,
        format_func=WAYS.__getitem__, on_change=link_check.forget, args=("groups", "target", "rest"),
    )  # fmt: skip
    with messages.guarded("These are not two groups"):
        choose_by = {"condition": _condition, "picked": picks.choose, "slice": _slices, "class": _class}
        chosen = choose_by.get(way or "tag", _tag)(context)
        if chosen is None:
            return None
        params, names = chosen
        prompts = context.view("contrast-prompts", **params)
        contrast = Contrast(params=params, names=names, prompts=prompts)
        _cards(contrast)
        return contrast
    return None


def _tag(context: PageContext) -> tuple[dict[str, Any], tuple[str, str]] | None:
    columns = [name for name, values in context.trace.tags().items() if len(values) > 1]
    if not columns:
        messages.empty(
            "Nothing to contrast",
            "No tag of this trace has two values. Prompts can still be contrasted by a condition or picked by hand.",
            todo="Or trace a prompt set with a column group (or language, or any tag) of two or more values.",
        )
        return None
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        first = columns.index("group") if "group" in columns else 0
        by = link_check.selectbox(
            "Tag",
            columns,
            key="contrast",
            what="the column",
            forgets=("target", "rest"),
            index=first,
            width=170,
        )
        target, rest = _two(
            context.trace.tags()[by], lambda value: words.option(by, value), what=words.label(by)
        )
    params: dict[str, Any] = {"by": by, "target": [target]}
    if rest is not None:
        params["rest"] = [rest]
    return params, (words.value_name(by, target), ALL_OTHERS if rest is None else words.value_name(by, rest))


def _class(context: PageContext) -> tuple[dict[str, Any], tuple[str, str]] | None:
    found = resonance_classes.choose(context)
    if found is None:
        return None
    params, classes = found
    if len(classes) < 2:
        messages.empty(
            "One class only",
            f"All answers are of the class {classes[0]}." if classes else "No answer is of any class.",
            todo="Change the rules, or the filter in the bar.",
        )
        return None
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        target, rest = _two(classes, str, what="the class")
    params |= {"by": "class", "target": [target]} | ({} if rest is None else {"rest": [rest]})
    return params, (target, rest or ALL_OTHERS)


def _slices(context: PageContext) -> tuple[dict[str, Any], tuple[str, str]] | None:
    known = {name: one for name, one in slice_menu.fitting(context.trace, experts=False).items() if one.where}
    if not known:
        messages.empty(
            "No slice of prompts",
            "A slice is a named selection of prompts that is kept with the library.",
            todo="Save one in the filter of the bar, or under picked prompts here.",
        )
        return None
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        target, rest = _two(list(known), str, what="the slice")
    params: dict[str, Any] = {"by": "prompt_id", "target": _ids(context, known[target])}
    if rest is not None:
        params["rest"] = _ids(context, known[rest])
    return params, (target, rest or ALL_OTHERS)


def _ids(context: PageContext, chosen: Slice) -> list[str]:
    where = {column: list(values) for column, values in chosen.where.items()}
    return context.trace.prompts(where)["prompt_id"].to_pylist()


def _two(values: list[str], name: Callable[[str], str], *, what: str) -> tuple[str, str | None]:
    """Two values to contrast, the second None for all others, and the button that swaps them."""
    target = link_check.selectbox("A", values, key="target", what=what, width=230, format_func=name)
    others = [ALL_OTHERS, *(value for value in values if value != target)]
    rest = link_check.selectbox(
        "against B", others, key="rest", what=what, known=[ALL_OTHERS, *values], width=230,
        format_func=lambda value: value if value == ALL_OTHERS else name(value),
    )  # fmt: skip
    st.button("Swap", key="swap", disabled=rest == ALL_OTHERS, on_click=_swap, icon=":material/swap_horiz:")
    return target or values[0], None if rest == ALL_OTHERS else rest


def _swap() -> None:
    state = st.session_state
    state["target"], state["rest"] = state["rest"], state["target"]


def _condition(context: PageContext) -> tuple[dict[str, Any], tuple[str, str]] | None:
    left, right = st.columns(2, gap="large")
    tags = ", ".join(f"tags['{name}']" for name in context.trace.tag_names())
    about = f'SQL over the table prompts: prompt_id, text, language, "group", generated{", " + tags if tags else ""}'
    a = left.text_input(
        "A: prompts where", key="a-where", bind="query-params", placeholder="language = 'ja' AND length(text) < 200",
        help=about,
    )  # fmt: skip
    b = right.text_input(
        "B: prompts where", key="b-where", bind="query-params", placeholder="all other prompts"
    )
    if not (a or "").strip():
        messages.empty(
            "No condition yet", "Group A is the prompts for which a condition holds, in SQL.", todo=about
        )
        return None
    params: dict[str, Any] = {"by": "prompt_id", "target": _query(a)}
    if (b or "").strip():
        params["rest"] = _query(b)
    return params, (excerpt(a, 60), excerpt(b, 60) if (b or "").strip() else ALL_OTHERS)


def _query(condition: str) -> str:
    return f"SELECT prompt_id FROM prompts WHERE {condition.strip().rstrip(';')}"


def _cards(contrast: Contrast) -> None:
    """Both groups as cards: how many prompts, in which languages, and the first of them."""
    found = []
    for side, letter, name in zip(("target", "rest"), "AB", contrast.names, strict=True):
        prompts = contrast.prompts.filter(pc.equal(contrast.prompts["side"], side))
        languages = [code for code in pc.unique(prompts["language"]).to_pylist() if code]
        spoken = f" · {words.listing(map(words.language_name, languages), most=4)}" if languages else ""
        examples = [
            f"“{excerpt(text, 60 if _wide(text) else 110)}”"
            for text in prompts["text"].drop_null().slice(0, EXAMPLES).to_pylist()
        ]
        found.append(
            (f"{letter}: {name}", " ".join(examples), words.amount(prompts.num_rows, "prompt") + spoken)
        )
    messages.cards(found)


def _wide(text: str) -> bool:
    """Whether a text is set in signs of double width."""
    return any(unicodedata.east_asian_width(sign) in "WF" for sign in text[:20])

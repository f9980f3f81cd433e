"""Classes of answers: rules that the reader sees and edits with what they match, or an uploaded table."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa
import streamlit as st

from ....store import StoreError
from ....store.arrow import pc
from ....store.response_classes import OTHER, REFUSAL_RULES, Rules, parse_classes
from ...shell import address, link_check, messages, show
from ...shell.page_context import PageContext
from ...text import words
from ...text.literal import excerpt

WRITTEN = "response rules"
"""Where the session keeps the rules as they were last written; Steer's evaluation begins with them."""


def choose(context: PageContext) -> tuple[dict[str, Any], list[str]] | None:
    """Draw the editor.

    Returns:
        The parameters of views (`rules` or `classes`) and the classes that occur; None where there are none.
    """
    with st.popover("Classes from a table", icon=":material/upload:", width=230):
        given = st.file_uploader(
            "A CSV with columns prompt_id and class, instead of rules", type=["csv"], key="classes file"
        )
    if given is not None:
        link_check.leave_out("the uploaded table of classes")
        return _from_table(context, given.getvalue())
    generated = context.trace.prompts(dict(context.where))["generated"]
    if generated.null_count == len(generated):
        messages.empty(
            "No answers to sort",
            "Classes come from what the model answered, and nothing was generated in this trace.",
            todo="Trace the prompts with tokens to generate, or upload a table of prompt_id and class.",
        )
        return None
    left, right = st.columns([2, 3], gap="large")
    with left:
        rules = _rules()
    if not rules:
        return None
    with right:
        found = context.view("response-classes", rules=rules)
        _matched(found)
    classes = sorted(name for name in pc.unique(found["class"]).to_pylist() if name is not None)
    return {"rules": rules}, classes


def _from_table(context: PageContext, data: bytes) -> tuple[dict[str, Any], list[str]]:
    try:
        classes = parse_classes(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise StoreError(f"the table is not UTF-8: {error}") from None
    ids = context.trace.prompts(dict(context.where))["prompt_id"].to_pylist()
    known = Counter(classes[one] for one in ids if one in classes)
    strangers = len(set(classes) - set(context.trace.prompts()["prompt_id"].to_pylist()))
    without = sum(one not in classes for one in ids)
    messages.say(
        f"{words.listing(f'{name} {count}' for name, count in known.most_common())}."
        + (f" {words.amount(without, 'prompt')} without a class take no part." if without else "")
        + (
            f" {words.amount(strangers, 'row')} of the table name no prompt of this trace."
            if strangers
            else ""
        )
    )
    return {"classes": classes}, sorted(known)


def _rules() -> Rules | None:
    usual = as_text(REFUSAL_RULES)
    if "rules" not in st.session_state and "rules" not in st.query_params:  # else a link's rules would lose
        st.session_state["rules"] = st.session_state.get(WRITTEN, usual)
    text = st.text_area(
        "Rules, one a line: class: regular expression", key="rules", height=250, bind="query-params",
        help="The first that is found anywhere in the answer decides, whatever the case; "
        f"an answer that none matches is “{OTHER}”.",
    )  # fmt: skip
    rules = parse_rules(text or "")
    st.session_state[WRITTEN] = text
    if text and text != usual and "rules" not in st.query_params:
        address.write("rules", text)
    st.download_button(
        "Rules as JSON", json.dumps(rules, indent=2, ensure_ascii=False), file_name="rules.json",
        mime="application/json", on_click="ignore", type="tertiary", key="rules file",
        help="For moescope view TRACE resonance --by class --rules rules.json",
    )  # fmt: skip
    if not rules:
        messages.say("Write at least one rule.")
        return None
    return rules


def as_text(rules: Rules) -> str:
    """Rules as the editor shows them."""
    return "\n".join(f"{name}: {pattern}" for name, patterns in rules.items() for pattern in patterns)


def parse_rules(text: str) -> dict[str, list[str]]:
    """Rules from the editor's text; empty lines are left out.

    Raises:
        StoreError: a line without a class and an expression; says which.
    """
    rules: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, colon, pattern = line.partition(":")
        if not colon or not name.strip() or not pattern.strip():
            raise StoreError(f"line {number} of the rules: write class: regular expression")
        rules.setdefault(name.strip(), []).append(pattern.strip())
    return rules


def _matched(found: pa.Table) -> None:
    rows = [row for row in found.to_pylist() if row["class"] is not None]
    counts = Counter(row["class"] for row in rows)
    patterns = Counter(row["pattern"] for row in rows if row["pattern"])
    shown = pa.Table.from_pylist(
        [
            {
                "class": row["class"],
                "matched": row["matched"] or "",
                "answer": excerpt(row["generated"] or "", 200),
                "rule": row["pattern"] or "",
                "prompt": row["prompt_id"],
            }
            for row in rows
        ],
        schema=pa.schema([(name, pa.string()) for name in ("class", "matched", "answer", "rule", "prompt")]),
    )
    busiest = f" The rule that decided most often: {patterns.most_common(1)[0][0]}" if patterns else ""
    show.table(
        shown, name="response-classes", height=250, key="classes",
        say=f"{words.listing(f'{name} {count}' for name, count in counts.most_common())}.{busiest}",
    )  # fmt: skip

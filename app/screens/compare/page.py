"""Compare: how far the routing of two traces agrees, where it does not, and what may explain it."""

from __future__ import annotations

import streamlit as st

from ....store.compare import Pairs
from ....store.compare.manifests import manifest_differences
from ....store.errors import BadArgument
from ....store.noise import noise_between, noise_table
from ...sentences import agreement as sentences
from ...shell import link_check, messages, show, sources, travel
from ...shell.comparing import pairs_of, view_of
from ...shell.page_context import PageContext
from ...text import words
from .. import expert_drawer
from . import layers, prompts, replay, routers
from .choice import Choice

PAIR_BY = {"prompt_id": "prompt id", "parallel_id": "parallel id"}
ALIGN = {"ids": "until token ids differ", "realign": "also after, realigned", "characters": "by characters"}


def page(context: PageContext) -> None:
    """Draw the page."""
    st.title("Compare", anchor=False)
    if context.second is None:
        _no_second(context)
        return
    choice = _choose(context)
    with messages.loading(height=200):
        try:
            pairs = pairs_of(context, choice.pair_by, choice.align)
        except BadArgument as error:
            _unlike(error)
            return
        overall = view_of(context, choice.pair_by, choice.align, "agreement-overall")
    if not overall.num_rows:
        _nothing(context, pairs)
        return
    _headline(context, pairs, overall.to_pylist()[0])
    layers.draw(context, choice)
    prompt = prompts.draw(context, choice)
    routers.draw(context, choice)
    with messages.guarded("Replay could not be offered"):
        replay.draw(context, pairs, prompt)
    _explain(context, pairs)
    if cell := expert_drawer.chosen():
        expert_drawer.draw(context, cell)


def _unlike(error: BadArgument) -> None:
    messages.empty(
        "These two traces can't be compared token by token",
        words.sentence(str(error)),
        todo="Choose another trace under “Compared with” in the bar above: one of a model with the same routers.",
    )


def _no_second(context: PageContext) -> None:
    """What the page would show; where the library has nothing to compare with, how to get it."""
    text = (
        "This page compares the routing of two traces over the same prompts, token by token: a quantised model "
        "with the original, one engine with another, a steered run with an unsteered one."
    )
    if any(name != context.name and not summary.error for name, summary in sources.summaries().items()):
        todo = "Choose a trace under “Compared with” in the bar above."
        messages.empty("No second trace is chosen", text, todo=todo)
        return
    messages.empty(
        "The library holds no second trace", text,
        todo=f"Trace the prompts of “{context.name}” once more in the Library, with another model, precision or "
        "steering profile, or import another engine's routing of them. docs/compare.md shows both.",
    )  # fmt: skip
    st.button("Open the Library", on_click=travel.to, args=("library",), key="compare-library")


def _choose(context: PageContext) -> Choice:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        pair_by = link_check.selectbox("Prompts pair by", list(PAIR_BY), key="pair", what="the column", width=150,
                                       format_func=PAIR_BY.__getitem__)  # fmt: skip
        names = ALIGN | ({"ids": "by position"} if pair_by == "parallel_id" else {})
        align = link_check.selectbox("Tokens pair", list(ALIGN), key="align", what="the way to pair", width=210,
                                     format_func=names.__getitem__)  # fmt: skip
        by = link_check.selectbox("Split by", ["phase", *context.tags()], key="by", what="the column", index=None,
                                  placeholder="nothing", width=160)  # fmt: skip
    link_check.tell("pair", "align", "by")
    return Choice(pair_by=pair_by, align=align, by=by)


def _nothing(context: PageContext, pairs: Pairs) -> None:
    chosen = f"Chosen in the bar: {context.describe()}." if context.describe() else ""
    why = " ".join(filter(None, [chosen, *pairs.notes()])) or "No token passes the filter."
    messages.empty(
        "No token of both traces to compare",
        why,
        todo="Widen the filter in the bar above, or pair otherwise.",
    )


def _headline(context: PageContext, pairs: Pairs, overall: dict) -> None:
    messages.say(sentences.headline(overall, context.name, str(context.second_name)))
    floor, unknown = noise_between(pairs.a, pairs.b)
    if floor:
        messages.say(sentences.noise(floor, overall["flip_rate"]))
    for text in unknown:
        messages.note("plain", text)
    if notes := pairs.notes():
        messages.note("plain", " ".join(notes))


def _explain(context: PageContext, pairs: Pairs) -> None:
    st.subheader("What differs between the two runs", anchor=False)
    table = manifest_differences(pairs.a, pairs.b).rename_columns(
        ["what", context.name, str(context.second_name)]
    )
    if table.num_rows:
        show.table(
            table, name="compare-runs", columns={"what": st.column_config.TextColumn(width=170)},
            say=f"Fields of the two manifests that differ: {words.count(table.num_rows)}. Precision, batch size, "
            "versions, steering and quantisation each can change a choice; this table does not say which of them did.",
        )  # fmt: skip
    else:
        messages.say("The two manifests say the same of model, prompts, settings, steering and versions.")
    floor, _ = noise_between(pairs.a, pairs.b)
    if floor:
        show.table(noise_table(floor), name="compare-noise",
                   say="The noise floor: what the arithmetic alone changes, by cause.")  # fmt: skip

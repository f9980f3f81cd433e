"""The bar on top of every page; `context.PageContext` is what it returns."""

from __future__ import annotations

import html
from collections.abc import Mapping

import streamlit as st

from ...store import Trace
from ...store.library import TraceSummary
from ...store.slices import Slice
from ..text import words
from . import address, link_check, messages, slice_menu, sources
from .page_context import TOKEN_KINDS, PageContext, current_theme

FIXED = ("language", "group")
PRINT = "fp"
"""Parameter of the address: the fingerprint of the trace that a link was made on."""
SHOWN = "trace of the link"
"""Key of the name that a link asked for and that is being shown."""


def draw(*, compares: bool = True) -> PageContext | None:
    """Draw the bar; None where no trace can be opened. A link to a trace that is not here ends the run.

    Args:
        compares: whether the page does something with a second trace; else its box is not drawn.

    Raises:
        StoreError: the chosen trace can't be read.
    """
    summaries = sources.summaries()
    known = {name: summary for name, summary in summaries.items() if not summary.error}
    if not known:
        return None
    asked = st.query_params.get("trace")
    if asked is not None:
        if asked in summaries and asked not in known:
            _stop_at_a_broken_trace(asked, str(summaries[asked].error), known)
        _stop_at_a_strange_link(asked, known)
    if asked not in known and st.session_state.get("trace") not in known:
        # Streamlit keeps a widget's default out of the URL; a link must name its trace all the same.
        st.session_state["trace"] = next(iter(known))
    with st.container(key="topbar", horizontal=True, vertical_alignment="bottom", gap="small"):
        name = st.selectbox(
            "Trace", list(known), index=None, required=True, key="trace", bind="query-params",
            on_change=_keep_valid, width=210,
        )  # fmt: skip
        name = name or next(iter(known))
        others = [other for other in known if other != name]
        second = None
        if compares and others:
            second = link_check.selectbox("Compared with", others, key="vs", what="the trace", index=None,
                                          placeholder="nothing", width=170)  # fmt: skip
        else:
            link_check.look("vs", others, what="the trace")
        trace = sources.get(known[name].url)
        where, tokens, sliced = _filter(trace)
        layers, stream = _layers(trace)
        _facts(trace)
    link_check.tell("vs", "slice", "tokens", "layers", "stream", *FIXED, "tag.")
    numbers = sorted({router.layer for router in trace.routers if router.stream == stream})
    narrowed = layers if numbers and layers != (numbers[0], numbers[-1]) else None
    address.complete(
        {
            "trace": name,
            PRINT: known[name].fingerprint,
            "vs": second,
            "tokens": tokens if tokens != "all" and not (sliced and sliced.tokens != "all") else None,
            "layers": narrowed,
            "slice": sliced.name if sliced else None,
            **{
                tag_key(column): values
                for column, values in where.items()
                if not (sliced and column in sliced.where)
            },
        }
    )
    second_url = known[second].url if second else None
    return PageContext(
        url=known[name].url, name=name, trace=trace, second_url=second_url, second_name=second,
        second=sources.get(second_url) if second_url else None, where=where, tokens=tokens, layers=layers,
        slice=sliced,
        stream=stream, theme=current_theme(),
    )  # fmt: skip


def _stop_at_a_broken_trace(asked: str, why: str, known: Mapping[str, TraceSummary]) -> None:
    """Where a link names a trace of the library that can't be opened: say why, and show nothing else."""
    with st.container(key="no-trace"):
        messages.card(
            f"The trace “{asked}” can't be opened", f"{words.sentence(why)} Nothing else is shown in its place.",
            todo="Its files stay untouched: restore trace.json from a copy, or trace the prompts again.", kind="error",
        )  # fmt: skip
        _offer_instead([next(iter(known))])
    st.stop()


def _stop_at_a_strange_link(asked: str, known: Mapping[str, TraceSummary]) -> None:
    """Where a link names a trace that is not here, or another recording of that name: say so, and show nothing else."""
    if asked in known and asked in (st.session_state.get(SHOWN), st.session_state.get("trace")):
        return
    wanted = st.query_params.get(PRINT)
    if asked in known and wanted in (None, "", known[asked].fingerprint):
        st.session_state[SHOWN] = asked
        return
    same = [name for name, summary in known.items() if wanted and summary.fingerprint == wanted]
    mark = f" (fingerprint {wanted})" if wanted else ""
    there = ""
    if asked in known:
        there = f"The trace of that name here is another recording (fingerprint {known[asked].fingerprint}). "
    with st.container(key="no-trace"):
        messages.card(
            f"The link shows the trace “{asked}”{mark}, which is not here",
            f"{there}Nothing else is shown in its place.",
            todo=f"It is here as “{same[0]}”." if same else "Ask for the trace's folder and open it in the Library.",
            kind="error",
        )  # fmt: skip
        _offer_instead([*same[:1], next(iter(known))])
    st.stop()


def _offer_instead(names: list[str]) -> None:
    for name in dict.fromkeys(names):
        st.button(words.label(f"Open “{name}”"), key=f"instead-{name}", on_click=_instead, args=(name,))


def _instead(name: str) -> None:
    st.session_state["trace"] = name
    st.session_state[SHOWN] = name
    st.query_params["trace"] = name
    st.query_params.pop(PRINT, None)


def tag_key(column: str) -> str:
    """Name of a column's filter in the URL."""
    return column if column in FIXED else f"tag.{column}"


def _filter(trace: Trace) -> tuple[Mapping[str, list[str]], str, Slice | None]:
    """Prompts, tokens, and the slice that set some of both."""
    tags = trace.tags()
    # In the first run of a link the boxes are still to come: what they will show stands in the address.
    active = {
        column: st.session_state.get(tag_key(column))
        or [value for value in st.query_params.get_all(tag_key(column)) if value in values]
        for column, values in tags.items()
    }
    kind = st.session_state.get("tokens") or st.query_params.get("tokens")
    kind = kind if kind in TOKEN_KINDS else "all"
    _look_at_filter(tags)
    with st.popover(
        _filter_label(trace, active, kind), icon=":material/filter_alt:", width=200, key="filter"
    ):
        sliced = slice_menu.choose(trace)
        where = {column: list(values) for column, values in sliced.where.items()} if sliced else {}
        if sliced:
            messages.say(
                f"The slice sets {words.selection(sliced.where)}; what else is chosen here narrows it."
            )
        for column, values in tags.items():
            if column in where:
                continue
            chosen = st.multiselect(
                words.label(column), values,
                key=tag_key(column), bind="query-params", placeholder="all",
                format_func=str, on_change=link_check.forget, args=(tag_key(column),),
            )  # fmt: skip
            if chosen:
                where[column] = chosen
        if not tags:
            st.caption("The prompts have no language, group or tags to filter by.")
        fixed = sliced is not None and sliced.tokens in TOKEN_KINDS and sliced.tokens != "all"
        tokens = link_check.selectbox("tokens", list(TOKEN_KINDS), key="tokens", disabled=fixed)
        tokens = sliced.tokens if sliced is not None and fixed else tokens
        with st.container(horizontal=True, gap="small"):
            slice_menu.save(trace, where=where, tokens=tokens, key="filter")
            if sliced is not None:
                st.button("Delete slice", type="tertiary", key="slice-delete", on_click=slice_menu.delete,
                          args=(sliced.name,))  # fmt: skip
    return where, tokens, sliced


def _look_at_filter(tags: Mapping[str, list[str]]) -> None:
    """What the link filters by and the trace lacks: a value, or the whole column."""
    asked = {key for key in st.query_params if key in FIXED or key.startswith("tag.")}
    for key in sorted(asked):
        column = key.removeprefix("tag.")
        link_check.look(key, tags.get(column, ()), what=words.label(column))
        if column not in tags:  # no widget takes it out of the address
            del st.query_params[key]


def _filter_label(trace: Trace, active: Mapping[str, list[str]], kind: str) -> str:
    chosen = [name] if (name := slice_menu.chosen_name(trace)) else []
    chosen += [value for values in active.values() for value in values]
    chosen += [kind] if kind != "all" else []
    return words.label(words.listing(chosen, most=3)) if chosen else "All prompts"


def _layers(trace: Trace) -> tuple[tuple[int, int], str]:
    streams = sorted({router.stream for router in trace.routers}, key=lambda s: (s != "decoder", s))
    stream = streams[0] if streams else "decoder"
    if len(streams) > 1:
        stream = link_check.selectbox("stream", streams, key="stream", width=130)
    numbers = sorted({router.layer for router in trace.routers if router.stream == stream})
    low, high = (numbers[0], numbers[-1]) if numbers else (0, 0)
    link_check.look("layers", [kind(n) for n in range(low, high + 1) for kind in (int, float)], what="layer")
    if len(streams) < 2:  # no box to choose one
        link_check.look("stream", streams)
    first, last = st.session_state.get("layers") or (low, high)
    if not low <= first <= last <= high:
        # Chosen in another trace, or in one that lay under this name before: a slider refuses what lies beyond it.
        st.session_state.pop("layers", None)
        first, last = low, high
    whole = (first, last) == (low, high)
    label = "All layers" if whole else f"Layer {first}" if first == last else f"Layers {first}–{last}"
    with st.popover(label, icon=":material/layers:", width=145, key="window"):
        if low == high:
            whose = f"The stream {stream}" if len(streams) > 1 else "The trace"
            st.caption(words.label(f"{whose} has one MoE layer, {low}."))
            return (low, high), stream
        window = st.slider("layers", low, high, (low, high), key="layers", bind="query-params",
                           on_change=link_check.forget, args=("layers",))  # fmt: skip
    return (window[0], window[1]), stream


def _facts(trace: Trace) -> None:
    experts = sorted({router.num_experts for router in trace.routers})
    across = f"{experts[0]}–{experts[-1]}" if len(experts) > 1 else str(experts[0] if experts else 0)
    top = sorted({router.top_k for router in trace.routers if router.top_k})
    facts = [
        f"{len(trace.routers)} × {across} experts" + (f", top {top[-1]}" if top else ""),
        words.amount(trace.num_prompts, "prompt"),
        words.amount(trace.num_tokens, "token"),
    ]
    st.html(f'<p class="ms-facts">{html.escape(" · ".join(facts))}</p>', width="content")


def _keep_valid() -> None:
    """Drop what the newly chosen trace does not have from filter and window."""
    st.session_state[SHOWN] = st.session_state.get("trace")
    st.query_params.pop(PRINT, None)
    link_check.forget()
    summary: TraceSummary | None = sources.summaries().get(st.session_state["trace"])
    if summary is None or summary.error:
        return
    tags = sources.get(summary.url).tags()
    for key in [key for key in st.session_state if str(key).startswith("tag.") or key in FIXED]:
        column = str(key).removeprefix("tag.")
        chosen = st.session_state[key]
        st.session_state[key] = [value for value in chosen if value in tags.get(column, [])]
    for key in ("layers", "stream"):
        st.session_state.pop(key, None)
    if st.session_state.get("vs") == st.session_state["trace"]:
        st.session_state["vs"] = None

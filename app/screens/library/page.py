"""Library: what was traced, what is being traced, and how to trace something new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import streamlit as st

from ....store import StoreError, library_edit
from ....store.library import TraceSummary
from ...shell import messages, show, sources, theme_watch, travel
from ...shell.page_context import PageContext
from ...shell.show import side_by_side
from ...steering.servers import short
from ...text import words
from . import evaluations_table, gallery, import_form, jobs_panel, manage, model_card, new_trace, start

COLUMNS: dict[str, Any] = {
    "trace": st.column_config.TextColumn(width=150),
    "languages": st.column_config.TextColumn(width=165),
    "balance": st.column_config.BarChartColumn(
        "load by layer",
        width=110,
        help="The busiest expert of each layer over the mean of its layer; 1 is even. Of many layers, each bar is the "
        "largest of a few neighbours.",
        y_min=0,
    ),
    "prompts": st.column_config.NumberColumn(format="localized"),
    "tokens": st.column_config.NumberColumn(format="localized"),
}
MOST_BARS = 30
"""Bars that the column of loads has pixels for; thinner ones fade."""
FEW_LANGUAGES = 5
"""As many fit in the column of languages; of more the number stands before them."""
WHERE_NARROW = ("trace", "state", "prompts", "layers × experts")
"""The columns that a narrow window has room for."""


def page(context: PageContext | None) -> None:
    """Draw the page; `context` is None where there is nothing to open yet."""
    st.title("Library", anchor=False)
    jobs_panel.draw()
    known = sources.summaries()
    start.draw(known)
    if known:
        _table(known)
    else:
        messages.empty(
            "No traces yet",
            "A trace is a recording of which experts a model used, token by token. "
            f"Traces are kept in {sources.library()}.",
            todo="Trace a model below, or open a trace folder.",
        )
    evaluations_table.draw(context)
    manage.draw_bin()
    left, right = side_by_side([3, 2], key="new")
    with left:
        new_trace.draw(sources.library())
    with right:
        _open_elsewhere()
        import_form.draw(sources.library())
    gallery.draw(known)


def _table(known: dict[str, TraceSummary]) -> None:
    tags = library_edit.tags_of(sources.library())
    rows = pa.Table.from_pylist([_row(name, summary, tags) for name, summary in known.items()])
    if not tags:
        rows = rows.drop_columns(["tags"])
    chosen = show.table(
        rows,
        name="library",
        say=f"{words.amount(len(known), 'trace')}; choose a row to see more of it or to open it.",
        columns=COLUMNS,
        order=WHERE_NARROW if theme_watch.narrow() else None,
        select="single-row",
        height="content",
    )
    if chosen:
        name = rows["trace"][chosen[0]].as_py()
        _details(name, known[name])


def _row(name: str, summary: TraceSummary, tags: dict[str, list[str]]) -> dict[str, Any]:
    across = f"{summary.layers} × {summary.experts}"
    return {
        "trace": name,
        "tags": tags.get(Path(summary.url).name, []),
        "model": short(summary.model),
        "state": "cannot be opened" if summary.error else _state(summary),
        "prompts": None if summary.error else summary.prompts,
        "tokens": None if summary.error else summary.tokens,
        "languages": _languages(summary),
        "layers × experts": ""
        if summary.error
        else across + (f", top {summary.top_k}" if summary.top_k else ""),
        "balance": [] if summary.error else _balance(summary.url),
        "size": words.size(summary.bytes) if summary.bytes else "",
        "updated": summary.updated[:10],
    }


def _state(summary: TraceSummary) -> str:
    state = {"running": "being traced", "partial": "unfinished", "complete": "complete"}[summary.state]
    return f"{state}, damaged" if summary.problems else state


def _languages(summary: TraceSummary) -> str:
    named = ", ".join(summary.languages)
    return f"{len(summary.languages)}: {named}" if len(summary.languages) > FEW_LANGUAGES else named


def _balance(url: str) -> list[float]:
    try:
        table = sources.view(url, "load-balance")
    except StoreError:
        return []  # the row's state already says that the trace is damaged
    loads = [round(value, 3) for value in table["max_over_mean"].to_pylist()] if table.num_rows else []
    together = -(-len(loads) // MOST_BARS) or 1
    return [max(loads[at : at + together]) for at in range(0, len(loads), together)]


def _details(name: str, summary: TraceSummary) -> None:
    with st.container(border=True, key="details"):
        if summary.error:
            messages.card(f"{name} cannot be opened", summary.error, kind="error",
                        todo="Its files stay untouched; restore trace.json, or trace the prompts again.")  # fmt: skip
            return
        trace = sources.get(summary.url)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.subheader(words.label(name), anchor=False)
            for page, label in (("heatmap", "Open heatmap"), ("tokens", "Open tokens")):
                st.button(
                    label, type="primary" if page == "heatmap" else "secondary", key=f"go-{page}",
                    on_click=travel.to, args=(page,), kwargs={"trace": name},
                )  # fmt: skip
        manifest = trace.manifest
        facts = {
            "address": summary.url,
            "model": manifest.model,
            "prompt set": manifest.prompt_set,
            "prompts by language": summary.languages,
            "captured": ", ".join(manifest.capture),
            "settings": manifest.settings,
            "steering": manifest.steering,
            "summary": manifest.summary,
            "versions": manifest.versions,
        }
        messages.say(_overview(summary))
        if not summary.sample and Path(summary.url).parent == sources.library():
            manage.draw(Path(summary.url).name)
        with st.expander("Model card"):
            model_card.draw(trace)
        with st.expander("Model, prompts, settings"):
            st.json({key: value for key, value in facts.items() if value}, expanded=2)
        with st.expander(words.amount(len(trace.routers), "router")):
            st.dataframe(pa.Table.from_pylist([spec.to_json() for spec in trace.routers]), hide_index=True)


def _overview(summary: TraceSummary) -> str:
    by = words.listing((words.language_name(code) for code in summary.languages), most=6)
    languages = f" in {words.amount(len(summary.languages), 'language')} ({by})" if summary.languages else ""
    top = f", each token using {summary.top_k}" if summary.top_k else ""
    balance = _balance(summary.url)
    uneven = (
        f" The busiest expert of a layer gets {min(balance):.1f} to {max(balance):.1f} times the mean load."
    )
    return (
        f"{summary.model}: {words.amount(summary.prompts, 'prompt')}{languages}, "
        f"{words.amount(summary.tokens, 'token')} through {words.amount(summary.layers, 'router')} of up to "
        f"{summary.experts} experts{top}." + (uneven if balance else "")
    )


def _open_elsewhere() -> None:
    st.subheader("Open a trace", anchor=False)
    with st.form("open-form", border=False, enter_to_submit=True):
        url = st.text_input(
            "Folder or address of a trace", placeholder="/data/my-trace or s3://bucket/my-trace"
        )
        sent = st.form_submit_button("Open")
    if sent and url.strip():
        with messages.guarded("It could not be opened"):
            summary = sources.add(url.strip())
            name = next(name for name, known in sources.summaries().items() if known.url == summary.url)
            travel.to("heatmap", trace=name)
            st.rerun()

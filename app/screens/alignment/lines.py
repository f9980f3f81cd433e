"""Divergence by layer, a line a language: the brush that chooses layers, and other traces beside it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ....store.notes import notes_of
from ...figures import alignment as figures
from ...figures.alignment_families import family_lines
from ...sentences import alignment as sentences_alignment
from ...shell import messages, show, sources, theme_watch
from ...shell.page_context import PageContext
from ...text import words

ACROSS = 3
TOGETHER, APART = "all in one chart", "in small charts"
MOST_BESIDE = 6
WIDEN = "Widen the filter in the bar above, or choose other tokens."


def draw(context: PageContext, params: dict[str, Any], colors: dict[str, Any]) -> tuple[int, int] | None:
    """Draw the lines of this trace and of those beside it; returns the chosen layers, None where there is no line."""
    pivot = params["pivot"]
    with messages.loading(height=360):
        table = context.view("alignment", **params)
        beside = _beside(context, params)
    if not table.num_rows:
        messages.empty("No language to compare", " ".join(notes_of(table)), todo=WIDEN)
        return None
    label = f"divergence from {words.language_name(pivot)}"
    domain = figures.common_domain([table, *beside.values()], "divergence") if beside else None
    if "scores" not in colors and _apart():
        _by_family(context, table, params, label, colors)
        messages.note("plain", " ".join(notes_of(table)))
        _small(beside, params, label, domain, colors)
        return _window(context, [])
    brushed = show.chart(
        lambda theme: figures.by_layer(
            table, "divergence", label=label, theme=theme, brush=True, domain=domain,
            legend_beneath=theme_watch.narrow(), **colors,
        ),
        table, name=f"alignment-{pivot}", key="alignment", select=figures.BRUSH,
        title=f"Routing divergence from {words.language_name(pivot)} by layer",
        say=sentences_alignment.lines(table, pivot), python=context.snippet("alignment", **params),
    )  # fmt: skip
    messages.note("plain", " ".join(notes_of(table)))
    _small(beside, params, label, domain, colors)
    return _window(context, brushed)


def _apart() -> bool:
    """Draw the choice between one chart and a small one for each family or class."""
    shown = st.segmented_control(
        "Lines", [TOGETHER, APART], default=TOGETHER, key="charts", bind="query-params", required=True,
        label_visibility="collapsed",
    )  # fmt: skip
    return shown == APART


def _by_family(
    context: PageContext, table: pa.Table, params: dict[str, Any], label: str, colors: dict[str, Any]
) -> None:
    """A small chart for each family or class, all other lines in grey behind its own."""
    pivot = params["pivot"]
    show.chart(
        lambda theme: family_lines(
            table, "divergence", label=label, theme=theme, across=1 if theme_watch.narrow() else ACROSS,
            classes=colors.get("classes"),
        ),
        table, name=f"alignment-{pivot}-apart", title=f"Routing divergence from {words.language_name(pivot)} by layer",
        say=sentences_alignment.lines(table, pivot), python=context.snippet("alignment", **params),
    )  # fmt: skip


def choose_beside(context: PageContext) -> None:
    """Draw the choice of other traces; at first the one that the bar compares with."""
    others = [
        name for name, summary in sources.summaries().items() if not summary.error and name != context.name
    ]
    if not others:
        return
    first = [context.second_name] if context.second_name in others else []
    if "beside" in st.session_state:
        st.session_state["beside"] = [name for name in st.session_state["beside"] if name in others]
        first = None
    st.multiselect(
        "Other traces beside it", others, default=first, key="beside", bind="query-params", width=300,
        placeholder="checkpoints, models", max_selections=MOST_BESIDE,
    )  # fmt: skip


def _beside(context: PageContext, params: dict[str, Any]) -> dict[str, pa.Table]:
    """Name of each other trace → its table. Its layers are its own; filter and span are the page's."""
    known = sources.summaries()
    asked = {name: value for name, value in context.params("alignment", **params).items() if name != "layers"}
    found = {}
    for name in st.session_state.get("beside") or []:
        if name in known:
            with messages.guarded(f"{name} could not be compared"):
                table = sources.view(known[name].url, "alignment", **asked)
                if table.num_rows:
                    found[name] = table
                else:
                    messages.note("plain", f"{name}: {' '.join(notes_of(table))}")
    return found


def _small(
    beside: dict[str, pa.Table],
    params: dict[str, Any],
    label: str,
    domain: tuple[float, float] | None,
    colors: dict[str, Any],
) -> None:
    names = list(beside)
    for start in range(0, len(names), ACROSS):
        for place, name in zip(st.columns(ACROSS, gap="medium"), names[start : start + ACROSS], strict=False):
            table = beside[name]
            with place:
                st.subheader(words.label(name), anchor=False)
                show.chart(
                    lambda theme, table=table: figures.by_layer(
                        table, "divergence", label=label, theme=theme, domain=domain, legend=False, height=220,
                        **colors,
                    ),
                    table, name=f"alignment-{params['pivot']}-{name}", key=f"beside {name}",
                    title=f"{name}: {label} by layer", say=sentences_alignment.brief(table),
                )  # fmt: skip
    if names:
        messages.say(
            "All charts share one vertical axis. D depends on the number of experts: compare levels only between "
            "models of the same E and k; shapes may be compared."
        )


def _window(context: PageContext, brushed: list[dict[str, Any]]) -> tuple[int, int]:
    """The layers of the brush or of the slider beneath it."""
    numbers = sorted({router.layer for router in context.routers()})
    if len(numbers) < 2:
        return numbers[0], numbers[0]
    _follow_brush(brushed, numbers)
    if "aligned" in st.session_state:
        low, high = st.session_state["aligned"]
        if low not in numbers or high not in numbers:
            del st.session_state["aligned"]
    return st.select_slider(
        "Layers for the matrix, the scores and the promoted experts (or drag over the lines)", numbers,
        value=(numbers[0], numbers[-1]), key="aligned", bind="query-params",
    )  # fmt: skip


def _follow_brush(brushed: list[dict[str, Any]], numbers: list[int]) -> None:
    """Let a new brush set the slider that is drawn after it; the slider may then be moved freely."""
    span = brushed[0].get("layer") if brushed else None
    if span == st.session_state.get("last brush"):
        return
    st.session_state["last brush"] = span
    if span:
        inside = [number for number in numbers if span[0] - 0.25 <= number <= span[1] + 0.25]
        if inside:
            st.session_state["aligned"] = (inside[0], inside[-1])

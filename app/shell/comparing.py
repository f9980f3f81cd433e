"""Two traces paired as the Compare page gets them: paired once, viewed once, shared by all who look."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ...store.compare import Pairs, pair_traces, view
from ...store.compare.views import parameters
from . import sources
from .page_context import TOKEN_KINDS, PageContext

Version = tuple[tuple[str, int], tuple[str, int]]


def pairs_of(context: PageContext, pair_by: str, align: str) -> Pairs:
    """The pairs of the page's two traces. Raises StoreError."""
    assert context.second_url is not None
    return _pairs(context.url, context.second_url, _version(context), pair_by, align)


def view_of(context: PageContext, pair_by: str, align: str, name: str, **params: Any) -> pa.Table:
    """A view of the comparison, filtered by the bar; `params` go first. Raises StoreError."""
    assert context.second_url is not None
    asked = chosen(context, name, **params)
    return _view(context.url, context.second_url, _version(context), pair_by, align, name, asked)


def chosen(context: PageContext, name: str, **params: Any) -> dict[str, Any]:
    """The parameters that `view_of` passes: the bar's choices that the view takes, then the page's own."""
    low, high = context.layers
    known = parameters(name)
    bar: dict[str, Any] = {"stream": context.stream, "layers": f"{low}:{high}", **TOKEN_KINDS[context.tokens]}
    if context.where:
        bar["where"] = dict(context.where)
    return {key: value for key, value in bar.items() if key in known} | params


def snippet(context: PageContext, pair_by: str, align: str, name: str, **params: Any) -> str:
    """The Python that gives the same numbers in a notebook."""
    given = ", ".join(f"{key}={value!r}" for key, value in chosen(context, name, **params).items())
    how = ", ".join(
        f"{key}={value!r}"
        for key, value, usual in (("pair_by", pair_by, "prompt_id"), ("align", align, "ids"))
        if value != usual
    )
    return (
        "from moescope.store import open_trace\n"
        "from moescope.store.compare import pair_traces, view\n\n"
        f"a, b = open_trace({context.url!r}), open_trace({context.second_url!r})\n"
        f"pairs = pair_traces(a, b{', ' if how else ''}{how})\n"
        f"table = view(pairs, {name!r}{', ' if given else ''}{given})"
    )


def loads_snippet(context: PageContext) -> str:
    """The Python that gives both loads in one table, as the two maps show them."""
    given = ", ".join(f"{key}={value!r}" for key, value in context.params("load").items())
    return (
        "from moescope.store import open_trace\n"
        "from moescope.store.compare.loads import side_by_side_loads\n"
        "from moescope.store.views.experts.load_difference import with_measure\n\n"
        f"a, b = open_trace({context.url!r}), open_trace({context.second_url!r})\n"
        f"sides = [with_measure(side.view('load'{', ' if given else ''}{given}), 'share') for side in (a, b)]\n"
        "table = side_by_side_loads(*sides)"
    )


def _version(context: PageContext) -> Version:
    assert context.second_url is not None
    return sources.version(context.url), sources.version(context.second_url)


@st.cache_resource(max_entries=4, show_spinner=False)
def _pairs(a: str, b: str, version: Version, pair_by: str, align: str) -> Pairs:
    return pair_traces(sources.get(a), sources.get(b), pair_by=pair_by, align=align)  # pyright: ignore


@st.cache_data(max_entries=128, show_spinner=False)
def _view(
    a: str, b: str, version: Version, pair_by: str, align: str, name: str, params: dict[str, Any]
) -> pa.Table:
    return view(_pairs(a, b, version, pair_by, align), name, **params)

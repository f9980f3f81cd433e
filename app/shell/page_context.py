"""What every page gets: the trace and what the bar on top has chosen; and how a page is written.

The bar holds the trace, a second trace to compare with, the prompt filter, the token kinds and the layer
window. Its widgets are bound to the URL (`?trace=sample&language=ja&layers=2&layers=5`), live in the entry
script, and so stay when pages change. A page's own widgets should be bound too
(`key="measure", bind="query-params"`); Streamlit drops them from the URL when the page changes.

How to write a page, in a file of `app/screens/` that `app/shell/shell.py` lists with one line:

    from .. import show, states
    from ..page_context import PageContext

    def page(context: PageContext) -> None:
        measure = st.segmented_control("Colour", ["share", "weight"], key="measure", bind="query-params")
        with states.loading(height=400):                     # a skeleton while the numbers are computed
            table = context.view("load", by="language")        # filtered by the bar, cached
        table = context.in_window(table)                       # rows whose layer lies in the window
        show.chart(
            lambda theme: routing_map(table, "share", theme=theme),   # drawn for the screen and for exports
            table,                                           # what CSV and Parquet hold
            name="heatmap",                                  # file name, and key of the chart
            title="Share of tokens by expert",
            say="Layer 5 sends 31 % of Japanese tokens to expert 17; chance is 12.5 %.",
            python=context.snippet("load", by="language"),
        )

`show.chart(..., select="cell")` returns the clicked points; `show.table` is the same for tables; `messages` has
`empty`, `problem`, `say` and `note`. Text that comes from prompts, models or files goes to the screen only
through these helpers, `st.dataframe`, `st.code` or `html.escape`: never through `st.markdown` or a label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import streamlit as st

from ...store import RouterSpec, Trace
from ...store.arrow import pc
from ...store.read.token_filter import TokenFilter
from ...store.slices import Slice
from ...store.views.chance import even_share_at
from ..figures.theme import DARK, LIGHT, Theme
from ..text import words
from . import sources

TOKEN_KINDS: dict[str, dict[str, Any]] = {
    "all": {},
    "text only": {"special": False},
    "prompt": {"phase": "prefill"},
    "generated": {"phase": "decode"},
    "completion": {"completion": True},
}
"""What the bar calls the token kinds → the parameters of views that choose them."""


@dataclass(frozen=True, kw_only=True)
class PageContext:
    """What the bar has chosen; every page gets one."""

    url: str
    name: str
    trace: Trace
    second_url: str | None = None
    second_name: str | None = None
    second: Trace | None = None
    where: Mapping[str, list[str]] = field(default_factory=dict)
    """Prompt filter: column or tag → values; empty for all prompts."""
    tokens: str = "all"
    """A key of TOKEN_KINDS."""
    layers: tuple[int, int] = (0, 1 << 30)
    """First and last layer of the window, both inside."""
    stream: str = "decoder"
    theme: Theme = LIGHT
    slice: Slice | None = None
    """The saved selection that `where` and `tokens` come from, in part or in whole."""

    def view(self, name: str, *, second: bool = False, **params: Any) -> pa.Table:
        """A named view of the trace (or the `second` one), filtered by the bar; `params` go first."""
        url = self.second_url if second else self.url
        if url is None:
            raise ValueError("there is no second trace to view")
        return sources.view(url, name, **self.params(name, **params))

    def params(self, name: str, **params: Any) -> dict[str, Any]:
        """The parameters that `view` passes: the bar's choices that the view takes, then the page's own."""
        chosen: dict[str, Any] = {"stream": self.stream, **TOKEN_KINDS[self.tokens]}
        if self.where:
            chosen["where"] = dict(self.where)
        return {key: value for key, value in chosen.items() if sources.takes(name, key)} | params

    def token_filter(self) -> TokenFilter:
        """The bar's choice of prompts and tokens."""
        return TokenFilter(where=dict(self.where) or None, **TOKEN_KINDS[self.tokens])

    def in_window(self, table: pa.Table) -> pa.Table:
        """Rows whose `layer` lies in the layer window."""
        low, high = self.layers
        layer = table["layer"]
        return table.filter(pc.and_(pc.greater_equal(layer, low), pc.less_equal(layer, high)))

    def routers(self) -> list[RouterSpec]:
        """Routers of the chosen stream in the layer window."""
        low, high = self.layers
        return [r for r in self.trace.routers if r.stream == self.stream and low <= r.layer <= high]

    @property
    def weighted(self) -> bool:
        """Whether the trace holds gate weights."""
        return "weights" in self.trace.manifest.capture

    @property
    def first_expert(self) -> str:
        """What a token's first expert is in this trace, in words."""
        if self.weighted:
            return "expert with the largest gate weight"
        return "first expert in the order of the recording, which has no gate weights"

    def tags(self) -> list[str]:
        """Columns that prompts can be grouped by."""
        return list(self.trace.tags())

    def chance(self, layer: int) -> float | None:
        """Share of the chosen tokens that an expert would get from even routing: k / E; None where k varies."""
        spec = self.trace.router(layer, self.stream)
        return even_share_at(self.trace, spec, self.token_filter())

    def describe(self, params: Mapping[str, Any] | None = None) -> str:
        """The choice in words, for sentences and exports.

        Args:
            params: those of a view; then its tokens are always said, as in a caption, `all tokens` too.
        """
        tokens = words.tokens(TOKEN_KINDS[self.tokens] if params is None else params)
        named = f"slice “{self.slice.name}”" if self.slice else ""
        said = "" if params is None and self.tokens == "all" else tokens
        return ", ".join(filter(None, [named, words.selection(self.where), said]))

    def source(self) -> str:
        """The line that an exported picture carries."""
        model = self.trace.manifest.model.get("name", "")
        return " · ".join(filter(None, [f"trace {self.name}", str(model), self.describe(), "moescope"]))

    def snippet(self, name: str, **params: Any) -> str:
        """The Python that gives the same numbers in a notebook."""
        given = ", ".join(f"{key}={value!r}" for key, value in self.params(name, **params).items())
        return (
            "from moescope.store import open_trace\n\n"
            f"trace = open_trace({self.url!r})\n"
            f"table = trace.view({name!r}{', ' if given else ''}{given})"
        )


def remember(name: str, value: str | None) -> None:
    """Put a page's choice that is no bound widget into the URL; None (its default) takes it out."""
    st.session_state[f"url {name}"] = value
    if value is None:
        st.query_params.pop(name, None)
    elif st.query_params.get(name) != value:
        st.query_params[name] = value


def asked(name: str) -> str | None:
    """What the URL asks for, where it is not what was remembered: a link, or the browser's back button."""
    value = st.query_params.get(name)
    return None if value == st.session_state.get(f"url {name}") else value


def current_theme() -> Theme:
    """The theme that the browser shows."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def current() -> PageContext | None:
    """The context of this run; None where the bar has no trace to show."""
    return st.session_state.get("page context")

"""A chart or a table on a page: the picture, a sentence under it, and a row of small actions.

Nothing is exported until a button is pressed: Streamlit then calls the function behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

import altair as alt
import pyarrow as pa
import streamlit as st

from ...store import views
from ...store.notes import notes_of
from .. import export
from ..figures.theme import LIGHT, Theme
from ..reports.item import Item, origin, packed, without_paths
from ..reports.render import about_line
from ..text import definitions
from . import link_check, page_context, sources, take_away
from .draw_chart import draw_chart
from .messages import say as say_line

if TYPE_CHECKING:
    import plotly.graph_objects as go

Picture = alt.Chart | alt.LayerChart | alt.HConcatChart | alt.VConcatChart | alt.ConcatChart | alt.FacetChart
Draw = Callable[[Theme], Picture]

MIME = {
    "PNG": "image/png",
    "SVG": "image/svg+xml",
    "GIF": "image/gif",
    "HTML": "text/html",
    "CSV": "text/csv",
    "Parquet": "application/vnd.apache.parquet",
}


def chart(
    draw: Draw,
    table: pa.Table,
    *,
    name: str,
    title: str,
    say: str,
    python: str = "",
    select: str | None = None,
    key: str | None = None,
    about: Mapping[str, Any] | None = None,
    files: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Show a chart.

    Args:
        draw: theme → chart; called with the page's theme now and with the light one for exports.
        table: the numbers behind the picture, for CSV and Parquet.
        name: file name without its ending.
        title: what the picture is called in exports and by screen readers; it is not drawn on the page.
        say: what the picture shows in words, with its numbers and the chance level.
        python: code that gives the same numbers in a notebook.
        select: name of the chart's point or interval selection that the page wants to hear of.
        key: identity on the page, `name` where None.
        about: where it comes from, where that is not the open trace; as `reports.item.origin`.
        files: JSON that goes with it into a report, by file name.
    Returns:
        The selected points, a dict of the selection's fields each (one dict of ranges for an interval); empty
        without `select`.
    """
    key = key or name
    here = page_context.current()
    theme = here.theme if here else page_context.current_theme()
    picture = draw(theme)
    if select is None:
        draw_chart(picture, key=key, alt=_heard(title, say))
        points: list[dict[str, Any]] = []
    else:
        event = draw_chart(
            picture, key=key, alt=_heard(title, say), on_select="rerun", selection_mode=[select]
        )
        found = event["selection"].get(select, [])
        # A point selection is a list of points, an interval one dict of ranges.
        points = [dict(found)] if isinstance(found, Mapping) and found else [dict(point) for point in found]
    say_line(say)
    _take_away(draw, table, name=name, title=title, say=say, python=python, key=key, about=about, files=files)
    return points


def _heard(title: str, say: str) -> str:
    """What a screen reader says of a figure: its name and the sentence beneath it."""
    return f"{title}. {say}"


def plotly(
    draw: Callable[[Theme], go.Figure],
    still: Draw,
    table: pa.Table,
    *,
    name: str,
    title: str,
    say: str,
    python: str = "",
    select: bool = False,
    key: str | None = None,
) -> list[dict[str, Any]]:
    """Show a Plotly figure: for what it does better than Vega, Sankey pictures and tens of thousands of points.

    Args:
        draw: theme → figure, for the page.
        still: theme → the same picture with Altair, for exports and reports: Plotly can't export without a browser.
        select: whether the page wants to hear of selected points.
        table, name, title, say, python, key: as for `chart`.
    Returns:
        The selected points, as Plotly tells them (`customdata` among them); empty without `select`.
    """
    key = key or name
    here = page_context.current()
    figure = draw(here.theme if here else page_context.current_theme())
    config = {"displaylogo": False, "displayModeBar": select, "scrollZoom": select,
              "modeBarButtonsToRemove": ["toImage", "autoScale2d"]}  # fmt: skip
    points: list[dict[str, Any]] = []
    if select:
        event = st.plotly_chart(
            figure, theme=None, key=key, config=config, alt=_heard(title, say), on_select="rerun",
            selection_mode=("points", "box", "lasso"),
        )  # fmt: skip
        points = [dict(point) for point in event["selection"].get("points", [])]
    else:
        st.plotly_chart(figure, theme=None, key=key, config=config, alt=_heard(title, say))
    say_line(say)
    _take_away(still, table, name=name, title=title, say=say, python=python, key=key)
    return points


def _take_away(
    draw: Draw,
    table: pa.Table,
    *,
    name: str,
    title: str,
    say: str,
    python: str,
    key: str,
    about: Mapping[str, Any] | None = None,
    files: Mapping[str, Any] | None = None,
) -> None:
    """The actions under a picture."""
    here = page_context.current()
    source = here.source() if here else "moescope"
    if about is not None:
        source = f"{about_line(dict(about))} · moescope"

    def spec() -> dict[str, Any]:
        return export.specification(draw(LIGHT), title=title, say=say, source=source)

    def item() -> Item:
        plain = table.replace_schema_metadata(None)
        said = with_notes_said(say, table)
        return Item(kind="figure", title=title, say=said, about=_about(python, about), python=_shared(python),
                    spec=export.specification(draw(LIGHT)), numbers=packed(plain), files=dict(files or {}))  # fmt: skip

    made: dict[str, Callable[[], bytes]] = {
        "PNG": lambda: export.to_png(spec()),
        "SVG": lambda: export.to_svg(spec()),
        "HTML": lambda: export.to_html(spec(), title=title),
    }
    actions(made | numbers(table), name=name, key=key, python=python, item=item)


def table(
    rows: pa.Table,
    *,
    name: str,
    say: str = "",
    python: str = "",
    columns: Mapping[str, Any] | None = None,
    order: Sequence[str] | None = None,
    select: Literal["single-row", "multi-row"] | None = None,
    height: int | Literal["auto", "content"] = "auto",
    key: str | None = None,
    draw: Draw | None = None,
    about: Mapping[str, Any] | None = None,
    shown: pa.Table | None = None,
) -> list[int]:
    """Show a table with its sentence and actions; `columns` is Streamlit's column_config, `order` the columns
    that are shown where not all are; the downloads hold all.

    `draw` adds pictures of the table to its actions; `about` as for `chart`; `shown` is the same table in words for the
    page, where the downloads keep other names. Returns the selected row numbers, if any.
    """
    key = key or name
    grid: dict[str, Any] = {"key": key, "hide_index": True, "column_config": columns, "height": height}
    grid |= {"column_order": order, "placeholder": "", "alt": say or name}
    if select is None:
        st.dataframe(rows if shown is None else shown, **grid)
        chosen: list[int] = []
    else:
        # `keys.js` knows by this name that Enter chooses a row here.
        with st.container(key=f"rows-{key}"):
            event = st.dataframe(
                rows if shown is None else shown, on_select="rerun", selection_mode=select, **grid
            )
        chosen = list(event["selection"]["rows"])
    if say:
        say_line(say)
    files: dict[str, Callable[[], bytes]] = {}
    if draw is not None:
        files = {
            "PNG": lambda: export.to_png(export.specification(draw(LIGHT), say=say)),
            "SVG": lambda: export.to_svg(export.specification(draw(LIGHT), say=say)),
            "HTML": lambda: export.to_html(export.specification(draw(LIGHT), say=say)),
        }

    def item() -> Item:
        plain = rows.replace_schema_metadata(None)
        title = name.replace("-", " ").capitalize()
        said = with_notes_said(say, rows)
        return Item(kind="table", title=title, say=said, about=_about(python, about), python=_shared(python),
                    numbers=packed(plain))  # fmt: skip

    actions(files | numbers(rows), name=name, key=key, python=python, item=item)
    return chosen


def with_notes_said(say: str, table: pa.Table) -> str:
    """A sentence as it leaves the page: with the table's notes (test, seed, which tokens count), which stand elsewhere
    on the page."""
    return " ".join(filter(None, [say, *(note for note in notes_of(table) if note not in say)]))


def _about(python: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Where a figure of this page comes from."""
    view, params = take_away.called(python)
    if given is not None:
        return {**given, "view": view}
    here = page_context.current()
    if here is None:
        return {}
    known = view in views.names() and sources.takes(view, "special")
    chosen = here.describe(params if known else None)
    if isinstance(prompt := params.get("prompt_id"), str):
        chosen = f"prompt {prompt}"
    about = origin(here.trace, here.name, chosen)
    if here.second is not None and python.count("open_trace(") > 1:
        about["second"] = origin(here.second, str(here.second_name))
    return about | {"view": view}


def _shared(python: str) -> str:
    here = page_context.current()
    others = {here.second_url: str(here.second_name)} if here and here.second_url else {}
    return without_paths(python, here.name if here else "", others)


def numbers(rows: pa.Table) -> dict[str, Callable[[], bytes]]:
    """The downloads of a table."""
    return {"CSV": lambda: export.to_csv(rows), "Parquet": lambda: export.to_parquet(rows)}


def actions(
    files: Mapping[str, Callable[[], bytes]],
    *,
    name: str,
    key: str,
    python: str = "",
    item: Callable[[], Item] | None = None,
) -> None:
    """The row of small actions: the definition, downloads by format, print, the link to this page, the Python, the
    report."""
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-") or "moescope"
    with st.container(horizontal=True, gap="small", key=f"actions-{key}"):
        if defined := definitions.of_snippet(python):
            with st.popover("Definition", type="tertiary", key=f"{key}-definition"):
                st.markdown(defined)
        for kind, make in files.items():
            st.download_button(
                kind, make, file_name=f"{stem}.{kind.lower()}", mime=MIME[kind], key=f"{key}-{kind}",
                on_click="ignore", type="tertiary",
            )  # fmt: skip
        if item is not None and "SVG" in files:
            take_away.print_popover(item, stem=stem, key=key)
        with st.popover("Link", type="tertiary", key=f"{key}-link"):
            lacks = link_check.left_out()
            st.caption("This address shows the same page, but for what it does not carry:" if lacks else
                       "This address shows the same picture:")  # fmt: skip
            for what in lacks:
                say_line(f"– {what}")
            st.code(link(), language=None, wrap_lines=True)
        if python:
            with st.popover("Python", type="tertiary", key=f"{key}-python"):
                st.code(python, language="python", wrap_lines=True)
        if item is not None:
            take_away.pin_button(item, key)


def link() -> str:
    """The address of this page with all that was chosen on it."""
    here = page_context.current()
    params = {name: st.query_params.get_all(name) for name in st.query_params}
    if here is not None:
        params = {"trace": [here.name]} | params
    query = urlencode(params, doseq=True)
    return f"{st.context.url or ''}{'?' if query else ''}{query}"


def side_by_side(
    widths: int | Sequence[int], *, key: str, gap: Literal["small", "medium", "large"] = "large"
):
    """Columns with a gap between them; in a window below 1,000 pixels each has the whole width (`frame.css`).

    Args:
        widths: how many, or their relative widths.
        key: unique on the page.
    """
    with st.container(key=f"beside-{key}"):
        return st.columns(widths, gap=gap)

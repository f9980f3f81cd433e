"""Data: ask the trace in SQL, and take it home in other formats."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa
import streamlit as st

from ...store.sql.query import ROWS, SECONDS, TRUNCATED, view_columns
from ..shell import messages, show, sources
from ..shell.page_context import PageContext
from ..shell.show import side_by_side
from ..text import words

EXAMPLES = {
    "most used experts": (
        "SELECT layer, expert, count(*) AS tokens, avg(weight) AS mean_weight\n"
        "FROM selections GROUP BY layer, expert ORDER BY tokens DESC LIMIT 20"
    ),
    "tokens of one expert": (
        "SELECT t.token, count(*) AS uses\n"
        "FROM selections AS s JOIN tokens AS t USING (prompt_id, position)\n"
        "WHERE s.layer = {layer} AND s.expert = 0 GROUP BY t.token ORDER BY uses DESC LIMIT 20"
    ),
    "first expert by language": (
        "SELECT p.language, s.expert, count(*) AS tokens\n"
        "FROM selections AS s JOIN prompts AS p USING (prompt_id)\n"
        "WHERE s.layer = {layer} AND s.slot = 0 GROUP BY ALL ORDER BY p.language, tokens DESC"
    ),
    "longest prompts": (
        "SELECT prompt_id, count(*) AS tokens FROM tokens GROUP BY prompt_id ORDER BY tokens DESC LIMIT 20"
    ),
}
FORMATS = {
    "duckdb": "one DuckDB file with the tables and views",
    "parquet": "the tables as Parquet files",
    "csv": "the tables as CSV files",
    "jsonl": "the tables as JSON lines",
}
EXPORT_BYTES = 2 << 30


def page(context: PageContext) -> None:
    """Draw the page."""
    st.title("Data", anchor=False)
    ask, columns = side_by_side([5, 2], key="query")
    with columns, messages.guarded("The columns could not be read"):
        _schema(context)
    with ask:
        _query(context)
    st.divider()
    _export(context)


def _query(context: PageContext) -> None:
    layer = context.routers()[0].layer if context.routers() else 0
    example = st.pills("Examples", list(EXAMPLES), key="example", label_visibility="collapsed")
    if example and st.session_state.get("example used") != example:
        st.session_state["sql"] = EXAMPLES[example].format(layer=layer)
    st.session_state["example used"] = example
    st.session_state.setdefault("sql", EXAMPLES["most used experts"])
    with st.form("sql-form", border=False):
        query = st.text_area("SQL", key="sql", height=150, label_visibility="collapsed", bind="query-params")
        with st.container(horizontal=True, vertical_alignment="center"):
            st.form_submit_button("Run", type="primary", shortcut="Ctrl+Enter")
            messages.say(
                f"Read-only. The bar's filter does not apply here. At most {words.count(ROWS)} rows and {SECONDS:g} s."
            )
    if not query.strip():
        messages.empty(
            "No query", "Type a SELECT over prompts, tokens, events, selections or rollups, and run it."
        )
        return
    with messages.guarded("The query failed"):
        with messages.loading(height=200):
            rows = _answer(context.url, sources.version(context.url), query)
        cut = TRUNCATED in (rows.schema.metadata or {})
        found = words.amount(rows.num_rows, "row")
        show.table(
            rows,
            name="query",
            say=f"The first {found}; more rows were left out." if cut else f"{found}.",
            python=f"from moescope.store import open_trace\n\ntable = open_trace({context.url!r}).sql({query!r})",
        )


@st.cache_data(max_entries=32, show_spinner=False)
def _answer(url: str, version: tuple[str, int], query: str) -> pa.Table:
    return sources.get(url).sql(query)


def _schema(context: PageContext) -> None:
    found = _columns(context.url, sources.version(context.url))
    for view, columns in found.items():
        with st.expander(view, expanded=view == "selections"):
            st.dataframe(
                pa.table({"column": [c for c, _ in columns], "type": [t.lower() for _, t in columns]}),
                hide_index=True,
                height="content",
            )


@st.cache_data(max_entries=16, show_spinner="reading the columns")
def _columns(url: str, version: tuple[str, int]) -> dict[str, list[tuple[str, str]]]:
    return view_columns(sources.get(url))


def _export(context: PageContext) -> None:
    st.subheader("Export the whole trace", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        form = st.selectbox("Format", list(FORMATS), key="format", width=160) or "duckdb"
        size = sum(file.bytes for part in context.trace.parts for file in part.files.values())
        st.download_button(
            "Export", lambda: export_bytes(context, form), file_name=export_name(context.name, form), key="export",
            on_click="ignore", disabled=size > EXPORT_BYTES,
        )  # fmt: skip
    messages.say(
        f"{FORMATS[form].capitalize()}, from {words.size(size)} of trace. On the command line: "
        f"`moescope export {context.url} --format {form} --out {export_name(context.name, form).removesuffix('.zip')}`."
    )


def export_name(name: str, form: str) -> str:
    """File name of an export: one DuckDB file, or the tables zipped."""
    return f"{name}.duckdb" if form == "duckdb" else f"{name}-{form}.zip"


def export_bytes(context: PageContext, form: str) -> bytes:
    """The exported trace as one file."""
    from ...store.export import export_trace

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / ("trace.duckdb" if form == "duckdb" else "trace")
        export_trace(context.trace, out, form)
        if out.is_file():
            return out.read_bytes()
        packed = Path(scratch) / "trace.zip"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(out.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(out))
        return packed.read_bytes()

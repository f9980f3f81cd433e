"""Reports: what was pinned from any page, in order, with captions; and the files to take away."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import streamlit as st

from ..reports import bundle, pdf, render
from ..reports import report as reports
from ..reports.item import Item
from ..reports.report import Report, ReportError
from ..shell import messages, sources, take_away
from ..shell.page_context import PageContext, asked, remember
from ..text import words

MOST_ROWS = 12
PAPER = {"left": 12, "top": 14, "right": 12, "bottom": 12}
"""Room around a figure, which is drawn as it is printed, on white paper."""


def page(context: PageContext | None) -> None:
    """Draw the page."""
    st.title("Reports", anchor=False)
    library = sources.library()
    name = _choose(library)
    with messages.guarded("The report could not be read"):
        report = reports.load(library, name)
        _add_note(library, name)
        if not report.items:
            messages.empty(
                f"Nothing in “{name}” yet",
                "A report holds figures, tables and notes in an order, with their numbers, sentences and methods. It "
                "opens anywhere without moescope.",
                todo="Press Pin under any figure, or write a note above.",
            )
            return
        _take(report)
        for number, item in enumerate(report.items):
            with messages.guarded("This entry could not be shown"):
                _entry(library, report, number, item)


def _choose(library: Path) -> str:
    """The report that is shown, and that figures are pinned to."""
    saved = reports.names(library)
    if (linked := asked("report")) in saved:
        st.session_state[take_away.CURRENT] = linked
        st.session_state.pop("report-chosen", None)
    known = list(dict.fromkeys([*saved, take_away.current_report()]))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        chosen = st.selectbox(
            "Report", known, index=known.index(take_away.current_report()), key="report-chosen", width=280,
            help="Pin adds to this one.",
        )  # fmt: skip
        with st.popover("New"), st.form("report-new", border=False, clear_on_submit=True):
            typed = st.text_input("Name", placeholder="refusal study")
            if st.form_submit_button("Create") and typed.strip():
                _create(library, typed.strip())
        with st.popover("Delete"):
            st.caption("The report's file is removed. Traces stay.")
            st.button("Delete it", key="report-delete", on_click=_delete, args=(library, chosen or ""))
    name = chosen or take_away.current_report()
    st.session_state[take_away.CURRENT] = name
    remember("report", name if name in saved else None)
    return name


def _create(library: Path, name: str) -> None:
    try:
        reports.save(library, reports.load(library, name))
    except (ReportError, OSError) as error:
        messages.note("error", str(error))
        return
    st.session_state[take_away.CURRENT] = name
    st.session_state.pop("report-chosen", None)
    st.rerun()


def _delete(library: Path, name: str) -> None:
    reports.delete(library, name)
    st.session_state.pop("report-chosen", None)
    st.session_state[take_away.CURRENT] = next(iter(reports.names(library)), take_away.FIRST_NAME)


def _add_note(library: Path, name: str) -> None:
    with st.expander("Write a note"), st.form("report-note", border=False, clear_on_submit=True):
        title = st.text_input("Title", key="report-note-title")
        text = st.text_area("Text", key="report-note-text")
        if st.form_submit_button("Add") and (title.strip() or text.strip()):
            note = Item(kind="note", title=title.strip() or "Note", say=text.strip())
            reports.change(library, name, lambda report: report.added(note))
            st.rerun()


def _take(report: Report) -> None:
    """The files: made when a button is pressed."""
    stem = report.name.replace(" ", "-")
    kinds: dict[str, tuple[str, str, Callable[[], bytes]]] = {
        "HTML": (f"{stem}.html", "text/html", lambda: render.to_html(report)),
        "PDF": (f"{stem}.pdf", "application/pdf", lambda: pdf.to_pdf(report)),
        "Folder (zip)": (f"{stem}.zip", "application/zip", lambda: _zipped(report)),
    }
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        messages.say(f"{words.amount(len(report.items), 'entry', 'entries')}; take it away as")
        for label, (file, mime, make) in kinds.items():
            st.download_button(label, make, file_name=file, mime=mime, key=f"report-{label}", on_click="ignore",
                               type="primary" if label == "HTML" else "secondary")  # fmt: skip


def _zipped(report: Report) -> bytes:
    with TemporaryDirectory() as scratch:
        made = bundle.write_bundle(report, Path(scratch) / "study")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(made.rglob("*")):
                if path.is_file():
                    file.write(path, Path(report.name.replace(" ", "-")) / path.relative_to(made))
        return buffer.getvalue()


def _entry(library: Path, report: Report, number: int, item: Item) -> None:
    name = report.name
    with st.container(border=True, key=f"entry-{item.id}"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.subheader(words.label(f"{number + 1}. {item.title}"), anchor=False)
            with st.container(horizontal=True, gap="small", width="content"):
                for label, by, stop in (("Up", -1, 0), ("Down", 1, len(report.items) - 1)):
                    st.button(label, key=f"{label}-{item.id}", type="tertiary", disabled=number == stop,
                              on_click=_change, args=(library, name, "moved", item.id, by))  # fmt: skip
                st.button("Remove", key=f"remove-{item.id}", type="tertiary", on_click=_change,
                          args=(library, name, "without", item.id))  # fmt: skip
        if item.spec is not None:
            st.vega_lite_chart(
                item.spec | {"width": "container", "padding": PAPER}, theme=None, key=f"chart-{item.id}"
            )
        table = item.table()
        if item.kind == "table" and table is not None:
            st.dataframe(table.slice(0, MOST_ROWS), hide_index=True)
            if table.num_rows > MOST_ROWS:
                messages.say(
                    f"{words.count(table.num_rows - MOST_ROWS)} more rows are in the report's files."
                )
        messages.say(item.say)
        st.text_input(
            "Caption", item.caption, key=f"caption-{item.id}", placeholder="your own words",
            on_change=_caption, args=(library, name, item.id),
        )  # fmt: skip
        if item.about:
            messages.say(render.about_line(item.about))


def _change(library: Path, name: str, how: str, *args: object) -> None:
    with messages.guarded("The report could not be changed"):
        reports.change(library, name, lambda report: getattr(report, how)(*args))


def _caption(library: Path, name: str, id: str) -> None:
    text = st.session_state.get(f"caption-{id}") or ""
    with messages.guarded("The caption could not be kept"):
        reports.change(library, name, lambda report: report.captioned(id, text))

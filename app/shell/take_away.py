"""How a figure leaves the page beyond its files: pinned to a report, or set for print with caption and methods."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import streamlit as st

from ..printing import specification as printing
from ..printing.greys import too_many
from ..reports import report as reports
from ..reports.item import Item
from ..reports.methods import paragraph
from ..reports.render import about_line
from ..text import words
from . import sources

CURRENT = "report"
"""In the session: the name of the report that figures are pinned to."""
FIRST_NAME = "report"
Make = Callable[[], Item]


def current_report() -> str:
    """The report that this session pins to: the one changed last, until another is chosen."""
    if CURRENT not in st.session_state:
        st.session_state[CURRENT] = next(iter(reports.names(sources.library())), FIRST_NAME)
    return st.session_state[CURRENT]


def pin_button(make: Make, key: str) -> None:
    """A button that adds the figure to the current report."""
    st.button("Pin", type="tertiary", key=f"{key}-pin", on_click=_pin, args=(make,),
              help="Add it to the report, with its numbers; see the Reports page.")  # fmt: skip


def _pin(make: Make) -> None:
    name = current_report()
    try:
        made = reports.change(sources.library(), name, lambda report: report.added(make()))
    except (reports.ReportError, OSError) as error:
        st.toast(words.label(f"It was not pinned: {error}"), icon=":material/error:")
        return
    st.toast(words.label(f"Pinned to “{name}”, entry {len(made.items)}."), icon=":material/push_pin:")


def print_popover(make: Make, *, stem: str, key: str) -> None:
    """PDF and SVG at the width of a paper's column, with the caption and the methods paragraph to copy."""
    st.fragment(_print)(make, stem, key)


def _print(make: Make, stem: str, key: str) -> None:
    # Its content is made only while it is open: a page has many figures.
    with st.popover("Print", type="tertiary", key=f"{key}-print", on_change="rerun") as panel:
        if not panel.open:
            return
        column = st.segmented_control(
            "Width", list(printing.COLUMNS), default="single", key=f"{key}-print-width", required=True,
            format_func=lambda name: f"{name} column, {printing.COLUMNS[name]:.0f} mm",
        ) or "single"  # fmt: skip
        grey = st.toggle("readable without colour", key=f"{key}-print-grey")
        item = make()
        if item.spec is not None:
            if grey and (colours := too_many(item.spec)):
                st.caption(f"This figure has {colours} colours: greys and hatches can't tell so many apart.")
            files = _files(item.spec, column, grey)
            with st.container(horizontal=True, gap="small"):
                for kind, (mime, data) in files.items():
                    st.download_button(kind, data, file_name=f"{stem}-{column}.{kind.lower()}", mime=mime,
                                       key=f"{key}-print-{kind}", on_click="ignore")  # fmt: skip
        st.caption("Caption")
        st.code(caption_of(item), language=None, wrap_lines=True)
        st.caption("Methods")
        st.code(paragraph(item.about, item.about.get("view", "")), language=None, wrap_lines=True)


def _files(spec: dict[str, Any], column: str, grey: bool) -> dict[str, tuple[str, Callable[[], bytes]]]:
    def made() -> dict[str, Any]:
        return printing.print_specification(spec, column=column, grey=grey)

    return {
        "PDF": ("application/pdf", lambda: printing.to_pdf(made())),
        "SVG": ("image/svg+xml", lambda: printing.to_svg(made())),
    }


def caption_of(item: Item) -> str:
    """Title, sentence, and what it was made from."""
    title = item.title if item.title.endswith((".", "?")) else f"{item.title}."
    return " ".join(filter(None, [title, item.say, f"({about_line(item.about)})"]))


def called(python: str) -> tuple[str, dict[str, Any]]:
    """The view that a snippet calls, and its literal parameters; an empty name where it calls none."""
    for node in ast.walk(ast.parse(python)):
        if not isinstance(node, ast.Call) or ast.unparse(node.func).rpartition(".")[2] != "view":
            continue
        names = [
            one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)
        ]
        if names:
            params = {one.arg: one.value.value for one in node.keywords
                      if one.arg and isinstance(one.value, ast.Constant)}  # fmt: skip
            return names[0], params
    return "", {}

"""The shell around the pages: navigation, the bar on top, and one place where failures end.

A new page is a file in `app/screens/` with `page(context)`, and one line in PAGES.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from ...store import Trace
from .. import ASSETS
from ..figures.theme import Theme
from . import gate, keyboard, link_check, messages, theme_watch, topbar, tour, travel, way
from .page_context import current, current_theme


@dataclass(frozen=True, kw_only=True)
class Screen:
    """A page as the navigation knows it."""

    name: str
    """Module in `app/screens/`, and its address."""
    title: str
    icon: str
    """A Material symbol."""
    needs_trace: bool = True
    """Whether `page(context)` can do without a context (it then gets None)."""
    compares: bool = False
    """Whether the page does something with a second trace."""
    needs_prompts: bool = True
    """Whether the page is about the prompts of the trace, and has nothing to show where no part can be read."""


PAGES = (
    Screen(name="library", title="Library", icon="inventory_2", needs_trace=False, needs_prompts=False),
    Screen(name="heatmap", title="Heatmap", icon="grid_on", compares=True),
    Screen(name="tokens", title="Tokens", icon="format_ink_highlighter"),
    Screen(name="structure", title="Structure", icon="account_tree"),
    Screen(name="alignment", title="Alignment", icon="translate"),
    Screen(name="resonance", title="Resonance", icon="graphic_eq"),
    Screen(name="compare", title="Compare", icon="compare_arrows", compares=True),
    Screen(name="steer", title="Steer", icon="toggle_on", needs_prompts=False),
    Screen(name="deploy", title="Deploy", icon="dns"),
    Screen(name="reports", title="Reports", icon="summarize", needs_trace=False, needs_prompts=False),
    Screen(name="data", title="Data", icon="database"),
)
FIRST = PAGES[0].name


def run() -> None:
    """One run of the app: what `streamlit run app/main.py` executes."""
    # With an icon of our own the browser does not ask a font server for that of the page.
    st.set_page_config(
        page_title="moescope", page_icon=ASSETS / "icon.png", layout="wide", initial_sidebar_state=200
    )
    st.html(ASSETS / "frame.css")
    theme = current_theme()
    st.html(f"<style>:root {{ {_variables(theme)} }}</style>")
    st.logo(ASSETS / "logo.svg", size="large")
    pages = {screen.name: _streamlit_page(screen) for screen in PAGES}
    # The default page has no address of its own: links to /library lead to it.
    by_name = st.Page(
        lambda: st.switch_page(pages[FIRST]), title=PAGES[0].title, url_path=FIRST, visibility="hidden"
    )
    # The gate comes after the navigation: a page that is not declared loses its address.
    may_look = gate.is_open()
    chosen = st.navigation([*pages.values(), by_name], position="sidebar" if may_look else "hidden")
    if not may_look:
        gate.ask()
    if chosen is by_name:
        st.switch_page(pages[FIRST], query_params=st.query_params.to_dict())
    travel.depart(pages)
    if st.session_state.get("page") != chosen.title:
        st.session_state["page"] = chosen.title
        link_check.leave()
    with st.container(key="unseen"):
        theme_watch.watch(theme)
        keyboard.enable()
        gate.keep()
    st.session_state["page context"] = None
    link_check.begin()
    with messages.guarded("The chosen trace can't be shown"):
        st.session_state["page context"] = topbar.draw(
            compares=any(screen.compares for screen in PAGES if screen.title == chosen.title)
        )
    tour.draw()
    chosen.run()
    link_check.settle()


def _variables(theme: Theme) -> str:
    names = ("steered", "background", "selected", "muted")
    return " ".join(f"--ms-{name}: {getattr(theme, name)};" for name in names)


def _streamlit_page(screen: Screen):
    return st.Page(
        _runner(screen),
        title=screen.title,
        icon=f":material/{screen.icon}:",
        url_path=None if screen.name == FIRST else screen.name,
        default=screen.name == FIRST,
    )


def _runner(screen: Screen) -> Callable[[], None]:
    def show() -> None:
        context = current()
        if context is not None:
            messages.banners(context.trace, context.url)
        elif screen.needs_trace:
            messages.empty(
                f"{screen.title}: no trace to show",
                "This page shows the routing of a trace, and there is none that can be opened.",
                todo="Open the Library to trace a model or to open a trace folder.",
            )
            return
        if context is not None and screen.needs_prompts and not context.trace.parts:
            messages.empty(*_no_parts(context.trace))
            return
        module = importlib.import_module(f"..screens.{screen.name}", __package__)
        known = context and context.trace.problems
        way.ask(screen.name)
        with messages.guarded(f"{screen.title} could not be drawn"):
            module.page(context)
        way.lead_on(screen.name)
        # Damage that came to light while the page was drawn: what stands above it is of the whole trace.
        if context is not None and context.trace.problems != known:
            st.rerun()

    return show


def _no_parts(trace: Trace) -> tuple[str, str]:
    """Why no prompt of a trace can be shown: title and text of a card."""
    if trace.problems:
        return (
            "No part of this trace can be read",
            "All of its parts are damaged: there is nothing left to show.",
        )
    return "Nothing traced yet", "No part of this trace is committed: its first prompts are still to come."

"""One page of the app without a browser: what the tests of pages share."""

from __future__ import annotations

from pathlib import Path

from streamlit.testing.v1 import AppTest


def draw(page: str, url: str, name: str) -> None:
    """The script of an AppTest: the page on one trace."""
    import importlib

    import streamlit as st

    from moescope.app.shell.page_context import PageContext
    from moescope.store import open_trace

    context = PageContext(url=url, name=name, trace=open_trace(url))
    st.session_state["page context"] = context
    importlib.import_module(f"moescope.app.screens.{page}").page(context)


def drawn(page: str, trace: Path, **state: object) -> AppTest:
    """The page `moescope.app.screens.PAGE` after one run with this session state; it must not have failed."""
    given = {"page": page, "url": str(trace), "name": trace.name}
    app = AppTest.from_function(draw, kwargs=given, default_timeout=60)
    for key, value in state.items():
        app.session_state[key] = value
    app.run()
    assert not app.exception, [error.message for error in app.exception]
    return app


def text_of(app: AppTest) -> str:
    """All that the app writes as its own HTML."""
    return "\n".join(str(element.proto.body) for element in app.get("html"))

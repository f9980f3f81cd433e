"""The part of the URL that Streamlit leaves out.

A widget that is bound to the URL keeps its default out of it, and `st.switch_page` empties it. A copied
address must name its trace and filter all the same, so the bar writes what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner_utils.script_run_context import get_script_run_ctx

KINDS = {str: "string_value", list: "string_array_value", tuple: "double_array_value"}


def complete(values: Mapping[str, Any]) -> None:
    """Write bound parameters that the address lacks; empty values are left out.

    Streamlit has no public call for a bound parameter. Where the one used here is gone, links still come
    whole from `show.link`.
    """
    for name, value in values.items():
        if value and name not in st.query_params:
            write(name, value)


def write(name: str, value: Any) -> None:
    """Write a parameter that is, or will be, bound to a widget: a text, a list of texts, or a pair of numbers."""
    context = get_script_run_ctx()
    if context is None:
        return
    with context.session_state.query_params() as params:
        set_value = getattr(params, "set_corrected_value", None)
        if set_value is not None:
            set_value(name, value, KINDS[type(value)])

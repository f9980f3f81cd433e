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
    context = get_script_run_ctx()
    missing = {name: value for name, value in values.items() if value and name not in st.query_params}
    if context is None or not missing:
        return
    with context.session_state.query_params() as params:
        write = getattr(params, "set_corrected_value", None)
        if write is not None:
            for name, value in missing.items():
                write(name, value, KINDS[type(value)])

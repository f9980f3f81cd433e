"""Columns that stand beneath one another where the window is narrow."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st


def side_by_side(widths: int | Sequence[int], *, key: str):
    """Columns with a wide gap; in a window below 1,000 pixels each has the whole width (`frame.css`).

    Args:
        widths: how many, or their relative widths.
        key: unique on the page.
    """
    with st.container(key=f"beside-{key}"):
        return st.columns(widths, gap="large")

"""The panel at the side of the switchboard: presets, whole layers, learning, files. One at a time, or closed."""

from __future__ import annotations

import streamlit as st

from ...shell.page_context import PageContext
from . import files, learn, presets, rules
from .server import Served

PRESETS, LAYERS, LEARN, FILES = "presets", "whole layers", "learn", "load, save, share"
ICONS = {PRESETS: "auto_awesome", LAYERS: "layers", LEARN: "school", FILES: "folder_open"}


def choose() -> str | None:
    """The tool whose panel is open; a click on it closes it."""
    return st.segmented_control(
        "Tools", list(ICONS), key="steer-panel", label_visibility="collapsed",
        format_func=lambda tool: f":material/{ICONS[tool]}: {tool}",
    )  # fmt: skip


def draw(tool: str, context: PageContext, served: Served, fits: bool) -> None:
    """Draw the panel; `fits` says whether the address holds the whole steering."""
    with st.container(border=True, key="steer-side"):
        match tool:
            case "presets":
                presets.draw(context)
            case "whole layers":
                rules.whole_layers(context)
            case "learn":
                learn.draw(served)
            case _:
                files.draw(context, fits)

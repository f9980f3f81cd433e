"""The way from a finding to steering: a profile on the Steer page, or as a file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import streamlit as st

from ...store.schema import Cell, LayerExpert
from ..shell import slice_menu, travel
from ..shell.page_context import PageContext
from ..text import words
from . import profiles


def offer(
    context: PageContext, name: str, rule: str, cells: Iterable[LayerExpert], *, key: str, **amounts: Any
) -> dict[str, Any]:
    """Draw the buttons for a profile of one rule over some cells, and for a slice of them; returns the profile."""
    chosen = sorted(set(cells))
    rules = profiles.rules_by_layer(rule, chosen, stream=context.stream, **amounts)
    made = profiles.profile(name, context.trace.manifest.model.get("name"), rules)
    word = profiles.in_address(made)
    stem = re.sub(r"[^\w-]+", "-", name).strip("-")[:60] or "profile"
    with st.container(horizontal=True, gap="small"):
        st.button(
            f"Send {words.amount(len(chosen), 'expert')} to Steer", type="primary", icon=":material/toggle_on:",
            disabled=not chosen or word is None, key=f"{key}-steer", on_click=travel.to, args=("steer",),
            kwargs={"profile": word},
            help=None if word else "The profile is too long for an address: load it on the Steer page as a file.",
        )  # fmt: skip
        st.download_button(
            "Profile as a file", profiles.as_file(made), file_name=f"{stem}.json", mime="application/json",
            on_click="ignore", disabled=not chosen, icon=":material/download:", key=f"{key}-profile",
        )  # fmt: skip
        experts = [Cell(context.stream, *cell) for cell in chosen]
        slice_menu.save(context.trace, experts=experts, key=f"{key}-experts")
    return made


def listed(cells: Iterable[LayerExpert], *, most: int = 12) -> str:
    """`layer 2: 5, 7; layer 3: 1`."""
    of: dict[int, list[int]] = {}
    for layer, expert in sorted(set(cells)):
        of.setdefault(layer, []).append(expert)
    parts = [f"layer {layer}: {', '.join(map(str, experts))}" for layer, experts in of.items()]
    more = [words.amount(len(parts) - most, "more layer")] if len(parts) > most else []
    return "; ".join([*parts[:most], *more])

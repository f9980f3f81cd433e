"""Experts that other languages, or a task, use more than the pivot's text; and promoting them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ....store.arrow import pc
from ....store.schema import LayerExpert
from ...figures import specialised as figures
from ...figures.routing_map import Hover, routing_map
from ...sentences import alignment
from ...shell import messages, show
from ...shell.page_context import PageContext
from ...steering import offer
from ...text import words
from .. import expert_drawer

TAUS = [round(0.05 * step, 2) for step in range(1, 13)]
HOVER = [
    Hover(column="kind", title="kind"),
    Hover(column="languages", title="for"),
    Hover(column="delta", title="difference, percentage points", format="+.1%"),
]

RESAMPLES = 200
"""Fewer than elsewhere: the intervals are drawn anew whenever τ moves."""


def draw(context: PageContext, params: dict[str, Any], window: tuple[int, int]) -> None:
    """Draw counts by layer, the map, and the way to steering."""
    st.subheader("Specialised experts", anchor=False)
    tau, asked = _controls(context, params)
    with messages.guarded("The specialised experts could not be found"):
        with messages.loading(height=260):
            counts = context.view("specialised-counts", **asked)
            experts = context.view("specialised-experts", tau=tau, resamples=RESAMPLES, **asked)
        at_tau = counts.filter(pc.less(pc.abs(pc.subtract(counts["tau"], tau)), 1e-9))
        show.chart(
            lambda theme: figures.kinds_by_layer(at_tau, theme=theme), counts, name="specialised-counts",
            title=f"Specialised experts by layer, τ = {tau}", say=alignment.kinds(at_tau, tau),
            python=context.snippet("specialised-counts", **asked),
        )  # fmt: skip
        if experts.num_rows:
            _map(context, experts, tau, asked)
        _promote(context, experts, window, params["pivot"], tau)


def _controls(context: PageContext, params: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    groups = context.trace.tags().get("group", [])
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        tau = st.select_slider(
            "τ: more often than the pivot by", TAUS, value=0.3, key="tau", bind="query-params", width=320
        )
        if "task" in st.session_state and st.session_state["task"] not in [None, *groups]:
            del st.session_state["task"]
        task = st.selectbox(
            "task: the pivot's prompts of group", groups, index=None, placeholder="none", key="task",
            bind="query-params", disabled=len(groups) < 2, width=260,
        )  # fmt: skip
    return tau, params | ({"task": task} if task else {})


def _map(context: PageContext, experts: pa.Table, tau: float, asked: dict[str, Any]) -> None:
    grid = strongest(context, experts)
    by_kind = st.segmented_control(
        "Cells coloured by", ["kind", "difference"], default="kind", key="cells", bind="query-params", required=True,
        label_visibility="collapsed",
    ) != "difference"  # fmt: skip
    points = show.chart(
        lambda theme: figures.kinds_map(grid, theme=theme) if by_kind else routing_map(
            grid, "delta", theme=theme, label="largest difference of frequency, points", value_format=".0%", hover=HOVER
        ),
        experts, name="specialised-experts", title=f"Specialised experts, τ = {tau}", select="cell",
        say=alignment.specialised(experts),
        python=context.snippet("specialised-experts", tau=tau, resamples=RESAMPLES, **asked),
    )  # fmt: skip
    expert_drawer.choose(points, place="specialised")


def strongest(context: PageContext, experts: pa.Table) -> pa.Table:
    """Every cell of the map with its largest difference, its kind, and the languages; 0 where there is none."""
    found: dict[LayerExpert, dict[str, Any]] = {}
    for row in experts.to_pylist():
        cell = found.setdefault(
            LayerExpert(row["layer"], row["expert"]), {"delta": 0.0, "kind": row["kind"], "names": []}
        )
        cell["delta"] = max(cell["delta"], row["delta"])
        cell["names"].append("the task" if row["language"] is None else words.language_name(row["language"]))
    rows = []
    for router in context.routers():
        for expert in range(router.num_experts):
            cell = found.get(LayerExpert(router.layer, expert), {"delta": 0.0, "kind": "none", "names": []})
            languages = words.listing(cell["names"], most=6) if cell["names"] else "no language"
            rows.append(
                {"layer": router.layer, "stream": router.stream, "expert": expert, "delta": cell["delta"],
                 "kind": cell["kind"], "languages": languages}
            )  # fmt: skip
    return pa.Table.from_pylist(rows)


def _promote(
    context: PageContext, experts: pa.Table, window: tuple[int, int], pivot: str, tau: float
) -> None:
    """A steering profile of the task's experts, or of the specialised ones, in the chosen layers."""
    cells, in_task = promoted(experts, window)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        how = st.segmented_control(
            "Promote them", ["soft", "hard"], default="soft", key="promote", bind="query-params", required=True,
            help="soft: z + λ · std(z); hard: always chosen",
        )  # fmt: skip
        strength = 0.5
        if how != "hard":
            strength = st.number_input("λ", 0.0, 10.0, 0.5, 0.1, key="lambda", bind="query-params", width=130)
        rule, amounts = ("bias", {"amount": strength}) if how != "hard" else ("on", {})
        whose = f"task experts of {pivot}" if in_task else f"experts used more than by {pivot}"
        name = f"promote {whose}, τ {tau}, layers {window[0]}-{window[1]}"
        offer.offer(context, name, rule, cells, key="promote", **amounts)
    chosen = f"Layers {window[0]} to {window[1]}" + (
        f": {offer.listed(cells, most=3)}." if cells else ": none."
    )
    hint = (
        "" if in_task else
        " The paper promotes the pivot's task experts in the middle layers; without a task these are the "
        "experts that other languages use more, whose promotion the paper found to harm."
    )  # fmt: skip
    messages.say(chosen + hint)


def promoted(experts: pa.Table, window: tuple[int, int]) -> tuple[set[LayerExpert], bool]:
    """The cells to promote in a window of layers, and whether they are the task's."""
    rows = experts.to_pylist()
    in_task = [row for row in rows if row["language"] is None]
    low, high = window
    return {
        LayerExpert(row["layer"], row["expert"]) for row in in_task or rows if low <= row["layer"] <= high
    }, bool(in_task)

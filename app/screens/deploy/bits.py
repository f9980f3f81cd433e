"""Bits: how many each expert gets, from the errors of the expert sheet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import streamlit as st

from ....store.deliver.recipes import RECIPES, recipe
from ....store.views.deploy.bits import allocate, bit_costs
from ....store.views.options import Routers
from ...figures import deploy as figures
from ...sentences.deploy import bits_answer
from ...shell import messages, show
from ...shell.page_context import PageContext
from .parts import decided, notes, take, window_text


def draw(context: PageContext) -> None:
    """The answer, the file, alternatives at one budget, the curve over budgets."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        levels = st.text_input("Bits to choose from", "2,3,4", key="levels", bind="query-params", width=170)
        budget = st.number_input(
            "Mean bits of an expert", 1.0, 8.0, 2.5, 0.25, key="budget", bind="query-params", width=190
        )
        scope = (
            st.segmented_control("Budget of", ["model", "layer"], default="model", key="scope", required=True)
            or "model"
        )
        form = st.selectbox("Recipe for", RECIPES, key="recipe", width=170)
    ask: dict[str, Any] = {"levels": levels, "scope": scope, "layers": window_text(context)}
    table = decided(lambda: context.view("bits", budgets=f"{budget:g}", **ask), "No allocation")
    if table is None:
        return
    messages.say(bits_answer(table, "mc-moe"))
    take(f"Recipe ({form})", lambda: _file(context, ask, budget, form), f"bits-{form}.json", key="bits.file")
    show.chart(
        lambda theme: figures.alternatives(
            table, "method", "error", label="predicted error on held-out prompts", chosen="mc-moe", value_format=".3g",
            theme=theme,
        ),
        table, name="bits", title="Bit allocations: predicted error",
        say="The same budget for all; uniform takes the widest single width that fits, which may leave bits unused.",
        python=context.snippet("bits", budgets=f"{budget:g}", **ask),
    )  # fmt: skip
    notes(table)
    _curve(context, ask)


def _curve(context: PageContext, ask: dict[str, Any]) -> None:
    widths = sorted(int(width) for width in ask["levels"].split(","))
    budgets = ",".join(f"{b:g}" for b in np.unique(np.round(np.linspace(widths[0], widths[-1], 9), 2)))
    table: pa.Table | None = decided(
        lambda: context.view("bits", budgets=budgets, draws=5, **ask), "No curve"
    )
    if table is None:
        return
    st.subheader("What does a bit more buy?", anchor=False)
    show.chart(
        lambda theme: figures.curves(
            table, "mean_bits", "error", "method", x_title="mean bits of an expert", y_title="predicted error",
            percent=False, theme=theme,
        ),
        table, name="bits-curve", title="Predicted error by mean bits", say="Held-out prompts; lower is better.",
        python=context.snippet("bits", budgets=budgets, **ask),
    )  # fmt: skip


def _file(context: PageContext, ask: dict[str, Any], budget: float, form: Any) -> str:
    tokens = context.token_filter()
    routers = Routers(layers=ask["layers"], stream=context.stream)
    costs = bit_costs(context.trace, ask["levels"], routers=routers, tokens=tokens)
    return recipe(form, costs.allocation(allocate(costs, "mc-moe", budget, ask["scope"])))

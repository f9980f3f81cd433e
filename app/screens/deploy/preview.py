"""What pruning would cost, asked of the live model: perplexity by language beside frequency and random choices."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ....store.errors import DecisionRefused
from ....store.views.deploy.preview import PrunePlan, prune_plan
from ....tracer.client import ServerError
from ...sentences.deploy import named, preview_answer
from ...shell import messages, show
from ...shell.page_context import PageContext
from ...steering.prune_preview import measured, table_of
from ..steer.server import Served, running


def draw(context: PageContext, keep: float, score: str, layers: str) -> None:
    """The button and, once asked, the answer; where no model runs, how to have one."""
    st.subheader("What would it cost?", anchor=False)
    served = running(context)
    if served is None or served.client is None:
        messages.say(
            "Start this trace's model on the Steer page: perplexity by language is then measured here, on held-out "
            "prompts, beside frequency and random choices of as many experts."
        )
        return
    if not _same_weights(context, served):
        messages.say("The model that runs has other weights than the traced one, so it is not asked.")
        return
    asked = (context.url, context.trace.manifest.updated, keep, score, layers, context.tokens, context.where)
    key = f"prune preview {asked}"
    if st.button("Measure on the live model", icon=":material/speed:", key="prune-measure"):
        _measure(context, served, key, keep, score, layers)
    table: pa.Table | None = st.session_state.get(key)
    if table is not None:
        messages.say(preview_answer(table, score))
        show.table(
            table, name="prune-preview", height="content", columns=_columns(table, score),
            say="Perplexity of held-out prompts under keep_only; random: mean, least and most of three draws.",
        )  # fmt: skip


def _columns(table: pa.Table, score: str) -> dict[str, Any]:
    number = st.column_config.NumberColumn
    ends = {"random least": "least", "random most": "most"}
    names = [name for name in table.column_names if name not in ("language", "tokens")]
    return {"tokens": number(format="localized")} | {
        name: number(named(name) if name == score else ends.get(name, name), format="%.4g") for name in names
    }


def _same_weights(context: PageContext, served: Served) -> bool:
    own = context.trace.manifest.model.get("weights_fingerprint")
    return own is None or served.about.get("model", {}).get("weights_fingerprint") in (None, own)


def _measure(context: PageContext, served: Served, key: str, keep: float, score: str, layers: str) -> None:
    tokens = context.token_filter()
    try:
        plan: PrunePlan = prune_plan(
            context.trace, keep=keep, score=score, layers=layers, stream=context.stream, tokens=tokens
        )
        total, sums = len(plan.kept) + 1, {}
        bar = st.progress(0.0, "all experts")
        assert served.client is not None
        for name, values in measured(served.client, plan, context.stream):
            sums[name] = values
            bar.progress(len(sums) / total, f"{len(sums)} of {total} choices measured")
        bar.empty()
        st.session_state[key] = table_of(sums, plan)
    except (DecisionRefused, ServerError) as error:
        messages.card("The cost could not be measured", str(error), kind="error")

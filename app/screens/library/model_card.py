"""The model of a trace as a card: sparsity, granularity, parameters, and the leverage that a scaling law expects."""

from __future__ import annotations

import pyarrow as pa
import streamlit as st

from ....store import Trace
from ....store.notes import notes_of
from ....store.views.deploy.model_card import COMPUTE, card_of
from ...figures.leverage import leverage_points
from ...sentences.deploy import card_answer
from ...shell import messages, show, sources


def draw(trace: Trace) -> None:
    """The card of one trace, and every traced model as a point beside it."""
    tokens = st.number_input(
        "Training tokens in billions", 0.0, 1e6, 0.0, key="training tokens", width=240,
        help="0: not known. Gives tokens per parameter, and the compute that the leverage is asked for.",
    )  # fmt: skip
    given = {"training_tokens": tokens * 1e9} if tokens else {}
    card = sources.view(trace.url, "model-card", **given)
    messages.say(card_answer(card))
    compute = card["compute"][0].as_py() or COMPUTE
    rows = [row for row in map(_row, _known()) if row["leverage"] is not None]
    if not rows:
        messages.say("No trace tells the sizes from which a leverage could be computed.")
        return
    points = pa.Table.from_pylist(rows)
    show.chart(
        lambda theme: leverage_points(
            points, compute=compute, chosen=trace.manifest.model.get("name"), theme=theme
        ), points, name="leverage",
        title="Efficiency leverage of the traced models (arXiv 2507.17702)",
        say=" ".join(notes_of(card)) + " Line: the law at granularity 12. Shaded: around its worked points.",
        python=f"from moescope.store import open_trace\n\ntable = open_trace({trace.url!r}).view('model-card')",
    )  # fmt: skip


def _known() -> list[Trace]:
    return [sources.get(summary.url) for summary in sources.summaries().values() if not summary.error]


def _row(trace: Trace) -> dict[str, object]:
    row = card_of(trace.manifest.model, trace.routers)
    known = row["sparsity"] is not None
    return row | {"activation": 1 - row["sparsity"] if known else None}  # pyright: ignore[reportReturnType]

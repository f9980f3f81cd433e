"""What the weights say of one expert: norms, and experts with similar rows of the router or similar outputs."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ...store.library import given_name
from ...store.schema import Cell
from ..sentences import weights as sentences
from ..shell import messages, show
from ..shell.page_context import PageContext


def draw(context: PageContext, cell: Cell) -> list[dict[str, Any]]:
    """Norms in a sentence, similar experts in a table; the rows that were chosen."""
    st.markdown("###### Its weights")
    ask = {"layer": cell.layer, "expert": cell.expert, "stream": cell.stream}
    norms, alike = context.view("expert-weights", **ask), context.view("expert-likeness", **ask)
    if not (norms.num_rows or alike.num_rows):
        model = given_name(context.trace) or "MODEL"
        messages.say(sentences.what_to_run(model, context.url))
        return []
    messages.say(sentences.weights(norms))
    if not alike.num_rows:
        messages.say(sentences.likeness(alike))
        return []
    number = st.column_config.NumberColumn
    chosen = show.table(
        alike,
        name=f"layer-{cell.layer}-expert-{cell.expert}-alike",
        key="drawer-alike",
        select="single-row",
        height="content",
        say=f"{sentences.likeness(alike)} Click a row to open that expert.",
        order=["expert", "router_cosine", *(["output_similarity"] if _known(alike) else [])],
        columns={
            "router_cosine": number("cosine of router rows", format="%.3f"),
            "output_similarity": number("cosine of outputs", format="%.3f"),
        },
        python=context.snippet("expert-likeness", **ask),
    )
    return [alike.slice(row, 1).to_pylist()[0] for row in chosen]


def _known(alike: pa.Table) -> bool:
    return alike["output_similarity"].null_count == 0

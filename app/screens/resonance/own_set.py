"""A set of experts that was found elsewhere, such as in a box of Structure's map: how it responds to the contrast."""

from __future__ import annotations

import pyarrow as pa

from ....store.schema import LayerExpert
from ....store.slices import Slice
from ...sentences import resonance as sentences
from ...shell import link_check, messages, slice_menu
from ...shell.page_context import PageContext


def choose(context: PageContext) -> Slice | None:
    """The box; not drawn where the library holds no slice of experts that fits."""
    known = slice_menu.fitting(context.trace, experts=True)
    known = {name: one for name, one in known.items() if any(c.stream == context.stream for c in one.experts)}
    if not known:
        link_check.look("experts", (), what="the slice of experts")
        return None
    name = link_check.selectbox(
        "Experts",
        list(known),
        key="experts",
        what="the slice of experts",
        index=None,
        placeholder="all",
        width=260,
    )
    return known.get(name or "")


def rows_of(context: PageContext, table: pa.Table, chosen: Slice) -> pa.Table:
    """The rows of the contrast that are about the set's experts, in their order; says how the set responds."""
    own = {LayerExpert(cell.layer, cell.expert) for cell in chosen.experts if cell.stream == context.stream}
    mine = [
        LayerExpert(layer, expert) in own
        for layer, expert in zip(table["layer"].to_pylist(), table["expert"].to_pylist(), strict=True)
    ]
    messages.say(sentences.own_set(table, mine, chosen.name))
    return table.filter(pa.array(mine))

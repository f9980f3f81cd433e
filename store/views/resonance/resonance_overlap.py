"""Do the experts of one behaviour coincide with those of another?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from ....kernels.resonance import overlap
from ...notes import with_notes
from ...read.trace_rows import TraceRows
from ..options import DECODER, Routers
from ..registry import view
from .contrast import WHOLE_PROMPT, ContrastFilter
from .resonance import scan
from .sides import BY_GROUP, Group, Grouping


@view("resonance-overlap")
def resonance_overlap(
    trace: TraceRows,
    *,
    target: Group,
    other_target: Group,
    other_rest: Group = None,
    other_by: str | None = None,
    grouping: Grouping = BY_GROUP,
    routers: Routers = DECODER,
    measure: str = "rate",
    tokens: ContrastFilter = WHOLE_PROMPT,
    top: int = 20,
    seed: int = 0,
) -> pa.Table:
    """Do the top experts of two contrasts coincide?

    Args:
        target: of the first contrast, as in `resonance`; `by` and `rest` are of the first one too.
        other_target, other_rest, other_by: the second contrast.
        measure: of both, as in `resonance`.
        top: experts of each contrast, towards its target.
    Returns:
        one row: jaccard, shared, expected (shared by chance, given how many each layer has), p (one-sided,
        exact), top. Contrasts that share prompts overlap for that reason alone.
    """
    masks, notes = [], []
    other = replace(grouping, by=other_by or grouping.by, rest=other_rest)
    for group, of in ((target, grouping), (other_target, other)):
        found = scan(
            trace, target=group, grouping=of, chosen=routers, measure=measure, tokens=tokens, top=top, ranking="target",
            permutations=200, stability=0, refine=False, seed=seed,
        )  # fmt: skip
        router_M, expert_M = found.cells()
        mask = np.zeros((len(found.routers), int(expert_M.max()) + 1), bool)
        chosen = found.result.top_mask()
        mask[router_M[chosen], expert_M[chosen]] = True
        masks.append(mask)
        notes.append(found.notes[0])
    shared = overlap(*masks)
    row = {
        "jaccard": shared.jaccard,
        "shared": shared.shared,
        "expected": shared.expected,
        "p": shared.p_value,
    }
    return with_notes(pa.Table.from_pylist([row | {"top": top}]), notes)

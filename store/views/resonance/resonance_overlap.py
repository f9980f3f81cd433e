"""Do the experts of one behaviour coincide with those of another?"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ....kernels.resonance import overlap
from ...notes import with_notes
from ...read.selection import Where
from ...read.trace_rows import TraceRows
from ...response_classes import Classes, Rules
from ..registry import view
from .contrast import WHOLE_PROMPT, ContrastFilter
from .resonance import scan
from .sides import Group


@view("resonance-overlap")
def resonance_overlap(
    trace: TraceRows,
    *,
    target: Group,
    other_target: Group,
    rest: Group = None,
    other_rest: Group = None,
    by: str = "group",
    other_by: str | None = None,
    rules: Rules | str | None = None,
    classes: Classes | str | None = None,
    where: Where | None = None,
    layers: str | None = None,
    stream: str = "decoder",
    measure: str = "rate",
    tokens: ContrastFilter = WHOLE_PROMPT,
    top: int = 20,
    seed: int = 0,
) -> pa.Table:
    """Do the top experts of two contrasts coincide?

    Args:
        target, rest, by: the first contrast, as in `resonance`.
        other_target, other_rest, other_by: the second.
        rules, classes, measure: of both, as in `resonance`.
        top: experts of each contrast, towards its target.
    Returns:
        one row: jaccard, shared, expected (shared by chance, given how many each layer has), p (one-sided,
        exact), top. Contrasts that share prompts overlap for that reason alone.
    """
    masks, notes = [], []
    for one, group, against in ((by, target, rest), (other_by or by, other_target, other_rest)):
        found = scan(
            trace, by=one, target=group, rest=against, where=where, rules=rules, classes=classes,
            layers=layers, stream=stream, measure=measure, tokens=tokens, top=top, ranking="target",
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

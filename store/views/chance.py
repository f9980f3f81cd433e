"""What even routing would give: the line that a share is read against."""

from __future__ import annotations

import numpy as np

from ..read.token_filter import ALL_TOKENS, TokenFilter
from ..read.trace_rows import TraceRows
from ..schema import RouterSpec


def even_share(spec: RouterSpec, uses: int, tokens: int) -> float | None:
    """k / E, where k is how many experts these tokens used on average: steering may leave fewer than the router's own.

    Args:
        uses: choices of any expert by these tokens.
    Returns:
        None where the router's own k varies, or there is no token.
    """
    return uses / tokens / spec.num_experts if spec.top_k is not None and tokens else None


def even_share_at(trace: TraceRows, spec: RouterSpec, tokens: TokenFilter = ALL_TOKENS) -> float | None:
    """`even_share` of the tokens that pass a filter at one router of a trace."""
    source = trace.sums_by(None, tokens.where)
    rows = source.rollups(spec.layer, spec.stream, sums=("count",))
    wanted_R = tokens.rows(source, rows)
    uses = rows.grouped("count", np.where(wanted_R, 0, -1), 1)
    assert uses is not None
    return even_share(spec, int(uses.sum()), int(rows.tokens_R[wanted_R].sum()))

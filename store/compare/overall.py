"""All layers together: how many decisions flipped, and how many tokens have any flip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ..notes import with_notes
from ..read.token_filter import ALL_TOKENS, TokenFilter
from ..views.options import DECODER, INTERVALS, Intervals, Routers
from .by_layer import ends, means_over_prompts
from .layers import shared_layers
from .pairs import Pairs

MEASURES = ("flip_rate", "tokens_flipped")


def agreement_overall(
    pairs: Pairs,
    *,
    by: str | None = None,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    intervals: Intervals = INTERVALS,
) -> pa.Table:
    """All layers together: how many decisions flipped, and how many tokens have any flip.

    Args:
        by: a column of A's prompts (language, group, ...), a tag, or phase: a row for each of its values.
    Returns:
        [by], prompts, tokens, layers, decisions (tokens × layers), flips, flip_rate (flips / decisions), tokens_flipped
        (share of tokens with a flip in any of the layers), both with their 95 % interval over prompts.
    """
    found, wanted_N, groups = (
        shared_layers(pairs, routers),
        pairs.wanted(tokens),
        pairs.groups(by),
    )
    decisions_N, flips_N = np.zeros(len(pairs)), np.zeros(len(pairs))
    for layer in found:
        compared = pairs.compared(layer, routers.stream)
        decisions_N[compared.pair_N] += 1
        flips_N[compared.pair_N] += compared.flipped_N
    kinds = [(by, pa.string())] if by is not None else []
    kinds += [(name, pa.int64()) for name in ("prompts", "tokens", "layers", "decisions", "flips")]
    kinds += [(name + end, pa.float64()) for name in MEASURES for end in ("", "_low", "_high")]
    prompt_N, rows = pairs.tokens_a.prompt_N[pairs.row_a], []
    for number, name in enumerate(groups.names):
        chosen = np.flatnonzero(wanted_N & (decisions_N > 0) & (groups.group_P == number))
        if len(chosen):
            row: dict[str, Any] = {by: name} if by is not None else {}
            row |= {"layers": len(found), "tokens": len(chosen)}
            row |= _measured(prompt_N[chosen], decisions_N[chosen], flips_N[chosen], intervals)
            rows.append(row)
    return with_notes(pa.Table.from_pylist(rows, schema=pa.schema(kinds)), [tokens.note()])


def _measured(
    prompt_N: np.ndarray, decisions_N: np.ndarray, flips_N: np.ndarray, drawn: Intervals
) -> dict[str, Any]:
    at_N = np.unique(prompt_N, return_inverse=True)[1]
    prompts = int(at_N.max()) + 1
    # A token counts as often as it was routed, so that the rate is that of decisions.
    decisions = np.repeat(at_N, decisions_N.astype(np.int64))
    share = np.repeat(flips_N / decisions_N, decisions_N.astype(np.int64))
    rate = means_over_prompts(share[:, None], decisions, prompts, drawn)[0]
    any_flip = means_over_prompts((flips_N > 0)[:, None].astype(np.float64), at_N, prompts, drawn)[0]
    counts = {"prompts": prompts, "decisions": int(decisions_N.sum()), "flips": int(flips_N.sum())}
    return counts | ends("flip_rate", rate) | ends("tokens_flipped", any_flip)

"""How flips go through the layers that a token passes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ...kernels.agreement import compounding, first_flip_layer, persistence
from ..notes import with_notes
from ..read.token_filter import ALL_TOKENS, TokenFilter
from ..views.options import DECODER, INTERVALS, Intervals, Routers
from .by_layer import ends, mean_over_prompts
from .layers import shared_layers
from .pairs import Pairs

FEWEST = 30
"""Tokens below which a share after a flip, or after none, is neither told nor drawn."""
_NAMES = (
    "flip_rate",
    "first_share",
    "so_far",
    "so_far_low",
    "so_far_high",
    "after_flip",
    "after_earlier",
    "after_none",
)
_NO_PROOF = "Tokens that flip easily flip in many layers: a higher share after a flip does not prove a cause."
_SCHEMA = pa.schema(
    [("layer", pa.int32()), ("stream", pa.string()), ("tokens", pa.int64()), ("first_flips", pa.int64())]
    + [("earlier", pa.int64()), ("unflipped", pa.int64())]
    + [(name, pa.float64()) for name in _NAMES]
)


def agreement_tokens(
    pairs: Pairs,
    *,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    intervals: Intervals = INTERVALS,
) -> pa.Table:
    """How flips go through the layers: where the first is, and whether one leads to the next.

    Args:
    Returns:
        layer, stream, tokens (that passed all of these layers on both sides), first_flips (tokens whose first flip is
        here), earlier and unflipped (tokens with and without a flip before this layer), flip_rate, first_share, so_far
        (share of tokens with a flip here or before: in the last layer, with any flip) with its 95 % interval over
        prompts, after_flip = P(flip | the layer before flipped), after_earlier = P(flip | any layer before flipped),
        after_none = P(flip | none before); null where no token is left to ask.
    """
    flips_TL, prompt_T, found = flips(pairs, routers, tokens)
    count = len(flips_TL)
    rows = []
    if count:
        first_L = np.bincount(first_flip_layer(flips_TL) + 1, minlength=len(found) + 1)[1:]
        earlier_L, none_L = compounding(flips_TL)
        after_L, so_far_TL = persistence(flips_TL), np.logical_or.accumulate(flips_TL, axis=1)
        prompt_T = np.unique(prompt_T, return_inverse=True)[1]
        prompts = int(prompt_T.max()) + 1
        for at, layer in enumerate(found):
            conditions = {"after_flip": after_L[at], "after_earlier": earlier_L[at], "after_none": none_L[at]}
            earlier = int(so_far_TL[:, at - 1].sum()) if at else 0
            rows.append(
                {"earlier": earlier, "unflipped": count - earlier}
                | {"layer": layer, "stream": routers.stream, "tokens": count, "first_flips": int(first_L[at])}
                | {"flip_rate": float(flips_TL[:, at].mean()), "first_share": float(first_L[at] / count)}
                | ends(
                    "so_far",
                    mean_over_prompts(so_far_TL[:, at], prompt_T, prompts, intervals),
                )
                | {name: None if np.isnan(value) else float(value) for name, value in conditions.items()}
            )
    return with_notes(pa.Table.from_pylist(rows, schema=_SCHEMA), [tokens.note(), _NO_PROOF])


def flips(pairs: Pairs, routers: Routers, tokens: TokenFilter) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """(T, L) flips of the tokens that passed all these layers on both sides, their prompts, and the layers."""
    found = shared_layers(pairs, routers)
    passed_N = pairs.wanted(tokens)
    flips_NL = np.zeros((len(pairs), len(found)), bool)
    for at, layer in enumerate(found):
        compared = pairs.compared(layer, routers.stream)
        here_N = np.zeros(len(pairs), bool)
        here_N[compared.pair_N] = True
        passed_N = passed_N & here_N
        flips_NL[compared.pair_N, at] = compared.flipped_N
    return flips_NL[passed_N], pairs.tokens_a.prompt_N[pairs.row_a[passed_N]], found

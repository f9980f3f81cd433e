"""Which expert replaced which."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ...kernels.agreement import exchange
from ...kernels.counting import count_experts
from ..notes import with_notes
from ..read.token_filter import ALL_TOKENS, TokenFilter
from ..views.options import DECODER, Routers
from .layers import compared_layers
from .pairs import Pairs

_SCHEMA = pa.schema(
    [
        *[
            ("layer", pa.int32()),
            ("stream", pa.string()),
            ("from_expert", pa.int32()),
            ("to_expert", pa.int32()),
        ],
        *[("count", pa.float64()), ("share", pa.float64()), ("uses", pa.int64())],
    ]
)


def agreement_experts(
    pairs: Pairs, *, routers: Routers = DECODER, tokens: TokenFilter = ALL_TOKENS
) -> pa.Table:
    """Which expert of B replaced which of A, in flipped tokens.

    Args:
    Returns:
        layer, stream, from_expert, to_expert, count (times; where several came for one that was left, each has a part),
        share = count / uses, uses (of from_expert in A): pairs that occur, most frequent first.
    """
    wanted_N, pieces = pairs.wanted(tokens), []
    for layer, found, kept in compared_layers(pairs, routers, wanted_N):
        experts = found.spec.num_experts
        given_EE = exchange(found.ids_a_NK[kept], found.ids_b_NJ[kept], experts)
        uses_E = count_experts(found.ids_a_NK[kept], experts)
        left, came = np.nonzero(given_EE)
        order = np.argsort(-given_EE[left, came], kind="stable")
        left, came = left[order], came[order]
        count = given_EE[left, came]
        columns = [
            np.full(len(left), layer),
            [routers.stream] * len(left),
            left,
            came,
            count,
            count / uses_E[left],
            uses_E[left],
        ]
        arrays = [pa.array(column, kind.type) for column, kind in zip(columns, _SCHEMA, strict=True)]
        pieces.append(pa.Table.from_arrays(arrays, schema=_SCHEMA))
    return with_notes(pa.concat_tables([_SCHEMA.empty_table(), *pieces]).combine_chunks(), [tokens.note()])

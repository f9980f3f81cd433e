"""Prompts by how much their routing changed, and one of them token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import UnknownColumn
from ..notes import with_notes
from ..read.token_filter import ALL_TOKENS, TokenFilter
from ..views.options import DECODER, Routers
from .layers import compared_layers, shared_layers
from .pairs import Pairs

_SCHEMA = pa.schema(
    [
        *[
            ("prompt_id", pa.string()),
            ("language", pa.string()),
            ("tokens", pa.int64()),
            ("decisions", pa.int64()),
        ],
        *[("flips", pa.int64()), ("flip_rate", pa.float64()), ("flipped_tokens", pa.int64())],
        *[("parts_at", pa.int64()), ("parts_in", pa.string())],
    ]
)
_ONE = pa.schema(
    [
        *[("position", pa.int64()), ("token", pa.string()), ("phase", pa.string()), ("layer", pa.int32())],
        *[
            ("stream", pa.string()),
            ("flipped", pa.bool_()),
            ("first_flipped", pa.bool_()),
            ("overlap", pa.float64()),
        ],
        *[
            ("gate_distance", pa.float64()),
            ("experts_a", pa.list_(pa.int32())),
            ("experts_b", pa.list_(pa.int32())),
        ],
    ]
)


def agreement_prompts(
    pairs: Pairs, *, routers: Routers = DECODER, tokens: TokenFilter = ALL_TOKENS
) -> pa.Table:
    """Prompts by the share of their routing decisions that changed, most first.

    Args:
    Returns:
        prompt_id, language, tokens (compared), decisions (tokens × layers), flips, flip_rate, flipped_tokens (with a
        flip in any of these layers), parts_at (position of the first other token id; null where there is none),
        parts_in (prefill or decode: whether that token was read or generated).
    """
    wanted_N, count = pairs.wanted(tokens), pairs.a.num_prompts
    decisions_P, flips_P = np.zeros(count, np.int64), np.zeros(count, np.int64)
    any_N, seen_N = np.zeros(len(pairs), bool), np.zeros(len(pairs), bool)
    for _, found, kept in compared_layers(pairs, routers, wanted_N):
        decisions_P += np.bincount(found.prompt_N[kept], minlength=count)
        flips_P += np.bincount(found.prompt_N[kept & found.flipped_N], minlength=count)
        any_N[found.pair_N[kept & found.flipped_N]] = True
        seen_N[found.pair_N[kept]] = True
    prompt_N = pairs.tokens_a.prompt_N[pairs.row_a]
    tokens_P, flipped_P = (np.bincount(prompt_N[some], minlength=count) for some in (seen_N, any_N))
    parted = {parting.prompt: parting for parting in pairs.partings}
    table = pairs.a.prompts()
    ids, languages = table["prompt_id"].to_pylist(), table["language"].to_pylist()
    rows: list[dict[str, Any]] = []
    for p in np.flatnonzero(decisions_P).tolist():
        parting = parted.get(p)
        phase = None if parting is None else pairs.tokens_a.table["phase"][parting.row_a].as_py()
        rows.append(
            {"prompt_id": ids[p], "language": languages[p], "tokens": int(tokens_P[p])}
            | {"decisions": int(decisions_P[p]), "flips": int(flips_P[p])}
            | {"flip_rate": flips_P[p] / decisions_P[p], "flipped_tokens": int(flipped_P[p])}
            | {"parts_at": None if parting is None else parting.position, "parts_in": phase}
        )
    rows.sort(key=lambda row: -row["flip_rate"])
    return with_notes(pa.Table.from_pylist(rows, schema=_SCHEMA), [tokens.note()])


def agreement_of_prompt(pairs: Pairs, *, prompt_id: str, routers: Routers = DECODER) -> pa.Table:
    """One prompt token by token: the experts of both sides in each layer.

    Args:
        prompt_id: the prompt, as A names it.
    Returns:
        position, token, phase, layer, stream, flipped, first_flipped, overlap, gate_distance, experts_a, experts_b.
    Raises:
        UnknownColumn: A has no such prompt.
    """
    ids = pairs.a.prompts()["prompt_id"].to_pylist()
    if prompt_id not in ids:
        raise UnknownColumn(f"A has no prompt {prompt_id!r}")
    row, rows, known = ids.index(prompt_id), [], pairs.tokens_a
    for layer in shared_layers(pairs, routers):
        found = pairs.compared(layer, routers.stream)
        for at in np.flatnonzero(found.prompt_N == row).tolist():
            token = int(pairs.row_a[found.pair_N[at]])
            distance = None if found.distance_N is None else float(found.distance_N[at])
            rows.append(
                {"position": int(known.position_N[token]), "token": known.text(token)}
                | {"phase": known.table["phase"][token].as_py(), "layer": layer, "stream": routers.stream}
                | {"flipped": bool(found.flipped_N[at]), "first_flipped": bool(found.first_N[at])}
                | {"overlap": float(found.overlap_N[at])}
                | {"gate_distance": None if distance is None or np.isnan(distance) else distance}
                | {"experts_a": _filled(found.ids_a_NK[at]), "experts_b": _filled(found.ids_b_NJ[at])}
            )
    return pa.Table.from_pylist(rows, schema=_ONE)


def _filled(ids_K: np.ndarray) -> list[int]:
    return [int(expert) for expert in ids_K if expert >= 0]

"""The routing map of single prompts, and how the difference of two grows as their tokens pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ....kernels.counting import count_experts
from ...errors import StoreError, UnknownColumn
from ...read.trace_rows import TraceRows
from ...schema import RouterSpec
from ..options import DECODER, Routers
from ..registry import view
from .contrast import WHOLE_PROMPT, ContrastFilter, maps_of

MOST_FRAMES = 400


@view("prompt-maps")
def prompt_maps(
    trace: TraceRows,
    *,
    prompts: str | Sequence[str],
    routers: Routers = DECODER,
    measure: str = "rate",
    tokens: ContrastFilter = WHOLE_PROMPT,
) -> pa.Table:
    """The routing maps that a contrast is made of: one a prompt.

    Args:
        prompts: prompt ids, comma between.
        layers, measure: as in `resonance`.
    Returns:
        prompt_id, layer, stream, expert, value (of the measure). Prompts without a token of the span are
        left out.
    """
    ids = prompts.split(",") if isinstance(prompts, str) else list(prompts)
    known = trace.prompts()["prompt_id"].to_pylist()
    unknown = sorted(set(ids) - set(known))
    if unknown:
        raise UnknownColumn(f"the trace has no prompt {unknown[0]!r}")
    wanted_P = np.array([one in ids for one in known], bool)
    specs = routers.specs(trace)
    maps_QM, rows = maps_of(trace, specs, wanted_P, measure, tokens)
    layer_M, expert_M = _cells(specs)
    return pa.table(
        {
            "prompt_id": np.repeat([known[row] for row in rows], len(layer_M)),
            "layer": np.tile(layer_M, len(rows)).astype(np.int32),
            "stream": [routers.stream] * maps_QM.size,
            "expert": np.tile(expert_M, len(rows)).astype(np.int32),
            "value": maps_QM.ravel(),
        }
    )


def _cells(routers: Sequence[RouterSpec]) -> tuple[np.ndarray, np.ndarray]:
    sizes = [spec.num_experts for spec in routers]
    return np.repeat([spec.layer for spec in routers], sizes), np.concatenate([np.arange(n) for n in sizes])


@view("prompt-scan")
def prompt_scan(
    trace: TraceRows,
    *,
    prompt_a: str,
    prompt_b: str,
    routers: Routers = DECODER,
    special: bool = True,
    frames: int = 48,
) -> pa.Table:
    """The scan running: the difference of two prompts' maps after so many of their tokens.

    Both prompts run from their first to their last token, so the last frame is the difference of their
    whole maps, and each expert's share is of the tokens that have passed.

    Args:
        prompt_a, prompt_b: prompt ids.
        special: false leaves special and template tokens out.
        frames: at most so many.
    Returns:
        frame, tokens_a, tokens_b (tokens that have passed), token_a, token_b (the newest), layer, stream,
        difference (one number an expert: share of A's tokens - share of B's).
    """
    if not 1 <= frames <= MOST_FRAMES:
        raise StoreError(f"frames is {frames}; it is between 1 and {MOST_FRAMES}")
    specs = routers.specs(trace)
    texts = [_tokens(trace, prompt, special) for prompt in (prompt_a, prompt_b)]
    many = min(frames, max(len(positions) for positions, _ in texts))
    step_F = np.arange(1, many + 1)
    passed_F = [np.ceil(step_F * len(positions) / many).astype(np.int64) for positions, _ in texts]
    rows = {"frame": [], "layer": [], "difference": []}
    for spec in specs:
        shares_FE = [
            _running_shares(trace, prompt, positions, spec, passed)
            for prompt, (positions, _), passed in zip((prompt_a, prompt_b), texts, passed_F, strict=True)
        ]
        rows["frame"] += step_F.tolist()
        rows["layer"] += [spec.layer] * many
        rows["difference"] += (shares_FE[0] - shares_FE[1]).tolist()
    at = np.array(rows["frame"]) - 1
    newest = [[text[n - 1] for n in passed] for (_, text), passed in zip(texts, passed_F, strict=True)]
    return pa.table(
        {
            "frame": pa.array(rows["frame"], pa.int32()),
            "tokens_a": passed_F[0][at],
            "tokens_b": passed_F[1][at],
            "token_a": pa.array([newest[0][i] for i in at], pa.string()),
            "token_b": pa.array([newest[1][i] for i in at], pa.string()),
            "layer": pa.array(rows["layer"], pa.int32()),
            "stream": [routers.stream] * len(at),
            "difference": pa.array(rows["difference"], pa.list_(pa.float64())),
        }
    )


def _tokens(trace: TraceRows, prompt_id: str, special: bool) -> tuple[np.ndarray, list[str | None]]:
    """Positions and texts of the tokens that count."""
    tokens = trace.tokens(prompt_id)
    kept = np.flatnonzero(special | ~np.asarray(tokens["special"]))
    if not len(kept):
        raise StoreError(f"prompt {prompt_id!r} has no tokens of the chosen span")
    return np.asarray(tokens["position"])[kept], tokens["token"].take(pa.array(kept)).to_pylist()


def _running_shares(
    trace: TraceRows, prompt_id: str, positions: np.ndarray, spec: RouterSpec, passed_F: np.ndarray
) -> np.ndarray:
    """(F, E) share of the first so many tokens that choose each expert."""
    events = trace.events(prompt_id, spec.layer, spec.stream, columns=["position", "experts"])
    chosen = dict(zip(events["position"].to_pylist(), events["experts"].to_pylist(), strict=True))
    width = max((len(experts) for experts in chosen.values()), default=1)
    ids_TK = np.full((len(positions), width), -1, np.int64)
    for row, position in enumerate(positions.tolist()):
        experts = chosen.get(position, [])
        ids_TK[row, : len(experts)] = experts
    groups_T = np.searchsorted(passed_F, np.arange(len(positions)), side="right")
    counts_FE = count_experts(ids_TK, spec.num_experts, groups=groups_T, num_groups=len(passed_F))
    there_T = np.array([position in chosen for position in positions.tolist()])
    tokens_F = np.cumsum(np.bincount(groups_T[there_T], minlength=len(passed_F)))
    return np.cumsum(counts_FE, axis=0) / np.maximum(tokens_F, 1)[:, None]

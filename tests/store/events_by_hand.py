"""Events of a trace as plain rows, sequences of them, and a trace whose tokens choose evenly and independently."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa

from moescope.store import Part, RouterEvents, RouterSpec, Trace, TraceWriter, open_trace


def rows_of(trace: Trace, layer: int, stream: str = "decoder") -> list[dict]:
    """Events with their token and prompt, in order."""
    prompts = {p["prompt_id"]: p for p in trace.prompts().to_pylist()}
    tokens = {(t["prompt_id"], t["position"]): t for t in trace.tokens().to_pylist()}
    rows = trace.events(layer=layer, stream=stream).to_pylist()
    for row in rows:
        row |= {"token": tokens[row["prompt_id"], row["position"]], "prompt": prompts[row["prompt_id"]]}
    return rows


def sequences(rows: list[dict]) -> Iterator[tuple[str, str, list[list[int]]]]:
    """Phase, prompt and experts of each run of consecutive tokens of one prompt in one phase."""
    numbered = [
        (row["prompt_id"], row["token"]["phase"], row["position"] - n, row) for n, row in enumerate(rows)
    ]
    for (prompt, phase, _), group in groupby(numbered, key=lambda item: item[:3]):
        yield phase, prompt, [row["experts"] for *_, row in group]


def even_trace(
    path: Path,
    *,
    prompts: int = 60,
    length: int = 40,
    layers: int = 2,
    experts: int = 8,
    k: int = 2,
    steered: bool = False,
) -> Trace:
    """Every token chooses evenly, independently of everything; `steered`: and keeps any number from 1 to k of them."""
    rng = np.random.default_rng(11)
    tokens = prompts * length
    prompt_N = np.repeat(np.arange(prompts, dtype=np.int32), length)
    position_N = np.tile(np.arange(length, dtype=np.int32), prompts)
    routers = [
        RouterSpec(layer=layer, num_experts=experts, top_k=k, router=f"{layer}") for layer in range(layers)
    ]
    token_N = rng.integers(0, 300, tokens).astype(np.int32)

    def kept(ids_NK: np.ndarray) -> np.ndarray:
        fewest = 1 if steered else k
        return np.where(np.arange(k) < rng.integers(fewest, k + 1, (tokens, 1)), ids_NK, -1)

    events = [
        RouterEvents(
            layer=spec.layer,
            stream="decoder",
            prompt=prompt_N,
            position=position_N,
            experts=kept(np.argsort(rng.random((tokens, experts)), 1)[:, :k].astype(np.int16)),
            weights=np.tile(np.linspace(0.6, 0.4, k, dtype=np.float16), (tokens, 1)),
            offsets=None,
        )
        for spec in routers
    ]
    part = Part(
        prompts=pa.table(
            {
                "prompt_id": [f"p{n}" for n in range(prompts)],
                "text": ["x"] * prompts,
                "language": [("en", "de", "fr")[n % 3] for n in rng.permutation(prompts)],
                "group": pa.nulls(prompts, pa.string()),
            }
        ),
        tokens=pa.table(
            {
                "prompt": prompt_N,
                "position": position_N,
                "token_id": token_N,
                "token": [f"t{n}" for n in token_N],
                "phase": np.where(position_N < length // 2, "prefill", "decode"),
                "special": np.zeros(tokens, bool),
                "completion": np.zeros(tokens, bool),
            }
        ),
        events=events,
    )
    with TraceWriter(path, routers=routers, model={}, prompt_set={}, settings={}) as out:
        out.write(part)
        out.finish()
    return open_trace(path)

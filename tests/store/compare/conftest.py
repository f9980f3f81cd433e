# pyright: reportArgumentType=false, reportCallIssue=false
"""Pairs of synthetic traces: one as it is, and one whose routing or text was changed in known places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from moescope.store import Part, Trace, TraceWriter, open_trace
from moescope.store.write.synthetic import Synthetic, synthetic_parts

PLAN = Synthetic(prompts=24, tokens_per_prompt=14, layers=3, experts=10, top_k=3, part_tokens=120, seed=3)
Change = Callable[[Part], None]


def write(path: Path, change: Change | None = None, plan: Synthetic = PLAN, **manifest: object) -> Trace:
    """A trace of the plan; `change` may edit each part before it is written."""
    settings = {
        "routers": plan.routers(),
        "model": {"name": "synthetic"},
        "prompt_set": {},
        "settings": {},
    } | manifest
    with TraceWriter(path, **settings) as out:  # pyright: ignore[reportArgumentType]
        for part in synthetic_parts(plan):
            if change is not None:
                change(part)
            out.write(part)
        out.finish()
    return open_trace(path)


def flip_some(part: Part, share: float = 0.2) -> None:
    """Another last expert for some events, another order for others."""
    for events in part.events:
        rng = np.random.default_rng([events.layer, len(events.prompt)])
        experts = events.experts.copy()
        chosen = np.flatnonzero(rng.random(len(experts)) < share)
        for row in chosen:
            free = sorted(set(range(PLAN.experts)) - set(experts[row].tolist()))
            experts[row, -1] = rng.choice(free)
        swapped = np.flatnonzero(rng.random(len(experts)) < share)
        experts[swapped] = experts[swapped][:, [1, 0, 2]]
        events.experts = experts
        part.sums.clear()


def retoken(changes: dict[tuple[str, int], int]) -> Change:
    """Other token ids at some (prompt_id, position)."""

    def change(part: Part) -> None:
        ids, tokens = part.prompts["prompt_id"].to_pylist(), part.tokens
        token_id = np.array(tokens["token_id"].to_pylist(), np.int32)
        for row, (prompt, position) in enumerate(
            zip(tokens["prompt"].to_pylist(), tokens["position"].to_pylist(), strict=True)
        ):
            token_id[row] = changes.get((ids[prompt], position), token_id[row])
        at = tokens.schema.get_field_index("token_id")
        part.tokens = tokens.set_column(at, "token_id", pa.array(token_id))

    return change


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return write(tmp_path_factory.mktemp("compare") / "plain")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """The same texts with flips and swaps."""
    return write(tmp_path_factory.mktemp("compare") / "other", flip_some)

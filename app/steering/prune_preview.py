"""Perplexity by language of a live model with fewer experts, beside other choices of as many."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from ...store.notes import with_notes
from ...store.views.deploy.preview import WHOLE, PrunePlan
from ...tracer.client import Client
from . import profiles

Sums = dict[str, np.ndarray]
"""By choice: (prompts, 2) summed negative log-likelihood (nats) and scored tokens."""


def measured(client: Client, plan: PrunePlan, stream: str) -> Iterator[tuple[str, np.ndarray]]:
    """Each choice with its sums, as the model answers. Raises ServerError."""
    prompts = [{"id": row["id"], "text": row["text"]} for row in plan.prompts]
    for name, cells in {WHOLE: None, **plan.kept}.items():
        steering = None
        if cells is not None:
            rules = profiles.rules_by_layer("keep_only", sorted(cells), stream=stream)
            steering = profiles.profile(name, None, rules)
        key = "base" if steering is None else "steered"
        rows = [row[key] for row in client.score(prompts, steering=steering)["prompts"]]
        yield name, np.array([[-(row["logprob"] or 0.0), row["tokens"]] for row in rows], float)


def table_of(sums: Sums, plan: PrunePlan) -> pa.Table:
    """Perplexity: a row for all prompts and one a language; random choices as mean, least and most."""
    languages = np.array([row["language"] for row in plan.prompts])
    rows: list[dict[str, Any]] = []
    for language in ("all", *sorted(set(languages.tolist()))):
        mine = np.ones(len(languages), bool) if language == "all" else languages == language
        of = {name: _perplexity(values[mine]) for name, values in sums.items()}
        random = [value for name, value in of.items() if name.startswith("random ")]
        row: dict[str, Any] = {"language": language, "tokens": int(sums[WHOLE][mine, 1].sum())}
        row |= {name: value for name, value in of.items() if not name.startswith("random ")}
        row |= {"random": sum(random) / len(random), "random least": min(random), "random most": max(random)}
        rows.append(row)
    return with_notes(pa.Table.from_pylist(rows), [plan.note])


def _perplexity(sums_P2: np.ndarray) -> float:
    return math.exp(min(float(sums_P2[:, 0].sum() / max(1.0, sums_P2[:, 1].sum())), 700.0))

"""The order in which the training text is read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd


def token_stream(work: Path, total: int, seed: int) -> np.ndarray:
    """`total` tokens: segments in random order, repeats of one segment far apart."""
    tokens = np.load(work / "tokens.npz")
    ids, starts, rows = tokens["train_ids"], tokens["train_starts"], tokens["train_rows"]
    language = pd.read_parquet(work / "corpus.parquet", columns=["language"])["language"].to_numpy()[rows]
    _, group = np.unique(language, return_inverse=True)
    size = np.bincount(group, weights=np.diff(starts))
    drawn = max(1.02 * total, total + 2000)
    repeats = (np.sqrt(size) / np.sqrt(size).sum() * drawn / size)[group]
    draw = np.random.default_rng(seed)
    times, segments = [], []
    for copy in range(math.ceil(repeats.max())):
        moment = (copy + draw.random(len(rows))) / repeats
        segments.append(np.flatnonzero(moment < 1))
        times.append(moment[segments[-1]])
    order = np.concatenate(segments)[np.argsort(np.concatenate(times))]
    stream = np.concatenate([ids[starts[i] : starts[i + 1]] for i in order])
    if len(stream) < total:
        raise ValueError(f"{len(stream)} tokens were drawn, {total} are needed")
    return stream[:total]

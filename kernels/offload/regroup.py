"""Sequences that use the same experts in one batch, so that fewer experts are loaded for it."""

from collections.abc import Iterable, Sequence

import numpy as np

from .._arrays import check_size


def regroup(paths: Sequence[Iterable[int]], batch: int) -> list[list[int]]:
    """Batches of sequences with a small sum over batches of how many different experts they use.

    Args:
        paths: for each sequence the experts that it uses (numbers that tell experts of different layers apart).
        batch: sequences in a batch; the last one may be smaller.
    Returns:
        Numbers of sequences by batch. Greedy: a batch begins with the sequence of most experts that is left, and takes
        the one that adds fewest. Never worse than in order.
    Source:
        After ExpertFlow, arXiv 2410.17954. {0,1},{2,3},{0,1},{2,3} by twos: in order 8, regrouped 4.
    """
    size = check_size(batch, "batch")
    uses = _table(paths)
    in_order = [list(range(start, min(start + size, len(uses)))) for start in range(0, len(uses), size)]
    left, made = np.ones(len(uses), bool), []
    while left.any():
        group = [int(np.where(left, uses.sum(1), -1).argmax())]
        left[group[0]] = False
        union = uses[group[0]].copy()
        while len(group) < size and left.any():
            adds = (uses & ~union).sum(1)
            # Of those that add as few, the one that shares most: it leaves least for later batches.
            key = np.where(left, adds * (uses.shape[1] + 1) - (uses & union).sum(1), np.iinfo(np.int64).max)
            group.append(int(key.argmin()))
            left[group[-1]] = False
            union |= uses[group[-1]]
        made.append(group)
    return made if _total(uses, made) < _total(uses, in_order) else in_order


def union_sizes(paths: Sequence[Iterable[int]], batches: Sequence[Sequence[int]]) -> list[int]:
    """How many different experts each batch uses."""
    return [len(set().union(*(set(paths[sequence]) for sequence in batch))) for batch in batches]


def _table(paths: Sequence[Iterable[int]]) -> np.ndarray:
    sets = [sorted({int(expert) for expert in path}) for path in paths]
    names = sorted(set().union(*sets)) if sets else []
    number = {name: at for at, name in enumerate(names)}
    table = np.zeros((len(sets), len(names)), bool)
    for row, path in enumerate(sets):
        table[row, [number[name] for name in path]] = True
    return table


def _total(uses: np.ndarray, batches: Sequence[Sequence[int]]) -> int:
    return sum(int(uses[list(batch)].any(0).sum()) for batch in batches)

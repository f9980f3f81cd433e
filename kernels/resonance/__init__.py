"""fTRI expert resonance: which experts respond to one group of prompts more than to another, and how surely.

1. Each prompt gives a map of L x E numbers (`prompt_maps`).
2. score = mean of the target group's maps - mean of the rest's.
3. Prompts are exchanged between the groups, all ways or a random sample, within pairs where there are pairs:
   p is the share of relabellings whose |score| is at least as large.
4. Benjamini-Hochberg over all L x E gives q; the same relabellings give the family-wise p of the largest score.
5. A bootstrap of the prompts says how often an expert stays in the top N.

Source: Dahlke et al. 2025, arXiv 2502.11096. Prompts, not tokens, are the unit. docs/methods/resonance.md
has the traps and the measured error rate and power.
"""

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_real, check_size, divide, first_index
from .contrast import Labels, OneOrMore, as_list, exchange_between, two_groups
from .exchange import Exchange
from .maps import prompt_maps, risk_difference, risk_difference_interval
from .permutation_test import PermutationTest, permutation_test
from .permutation_texts import TextExchange
from .result import Ranking, ResonanceResult, rank_key
from .significance import Overlap, benjamini_hochberg, overlap

__all__ = [
    "Overlap",
    "Ranking",
    "ResonanceResult",
    "benjamini_hochberg",
    "overlap",
    "prompt_maps",
    "resonance",
    "risk_difference",
    "risk_difference_interval",
]

_BOOTSTRAPS_AT_ONCE = 50


def resonance(
    maps: ArrayLike,
    labels: Labels,
    target: OneOrMore,
    rest: OneOrMore | None = None,
    permutations: int = 2000,
    seed: int = 0,
    *,
    pairs: Labels | None = None,
    texts: Labels | None = None,
    stability: int = 200,
    top_n: int = 20,
    ranking: Ranking = "absolute",
    refine: bool = False,
) -> ResonanceResult:
    """Contrast the routing maps of two groups of prompts.

    Args:
        maps: one map a prompt, (P, L, E) or (P, ...); see `prompt_maps`, whose "rate" is the safe choice.
        labels: the group of each prompt, (P,). None, "" and NaN belong to no group.
        target: the label of the target group, or a list or set of labels.
        rest: label or labels to compare with; without it all other labelled prompts, pooled.
        permutations: random relabellings; where the prompts allow no more than that, all are enumerated.
        seed: fixes relabellings and bootstraps.
        pairs: a pair id for each prompt (e.g. parallel_id), (P,). Prompts are then exchanged within pairs
            only, and the score is the mean over complete pairs of target - rest (means within the pair where
            it has several of a side). Prompts without a partner are left out of everything and listed in
            `unpaired`.
        texts: a text id for each prompt, (P,): prompts of one text, e.g. its translations, are not independent
            and change sides together. The score is the same. None, "" and NaN: a text of its own.
        stability: bootstraps of the prompts (of the pairs, where paired; of the texts, where they are given).
        top_n: N of the top N.
        ranking: by |score|, or by score towards the "target" or towards the "rest".
        refine: draw on for the experts that few relabellings matched, so that in a large model a lone expert
            can reach q < 0.05; without it the smallest p is 1 / (permutations + 1).
    Returns:
        `ResonanceResult`.
    Raises:
        ValueError: an empty or overlapping group, no complete pair, a text in both groups, pairs and texts at
            once, NaN or infinite maps, other lengths.
    Source:
        Dahlke et al. 2025, arXiv 2502.11096, for the score; permutation, q and stability are ours.
    """
    maps_PX = _checked_maps(maps)
    if ranking not in ("absolute", "target", "rest"):
        raise ValueError(f'ranking must be "absolute", "target" or "rest", got {ranking!r}')
    is_target, is_rest = two_groups(as_list(labels, "labels", len(maps_PX)), target, rest)
    exchange, unpaired = exchange_between(is_target, is_rest, pairs, texts)
    maps_PM = maps_PX.reshape(len(maps_PX), -1).astype(np.float64)
    precision_M = 4 * _step(maps_PX.dtype) * np.abs(maps_PM).max(0)
    rng = np.random.default_rng(seed)
    test = permutation_test(
        maps_PM, precision_M, exchange, check_size(permutations, "permutations"), rng, refine
    )
    top_n = min(check_size(top_n, "top_n"), maps_PM.shape[1])
    bootstraps = check_size(stability, "stability", least=0)
    cells = _means_and_effect(maps_PM, exchange, precision_M) | {
        "p_value": test.p_value,
        "q_value": benjamini_hochberg(test.p_value),
        "p_family": test.p_family,
        "stability": _stability(maps_PM, exchange, rng, bootstraps, top_n, ranking),
    }
    n_target, n_rest = (sum(len(block[side]) for block in exchange.blocks) for side in (0, 1))
    return ResonanceResult(
        **{name: values.reshape(maps_PX.shape[1:]) for name, values in cells.items()},
        n_target=n_target,
        n_rest=n_rest,
        n_pairs=0 if pairs is None else len(exchange.blocks),
        unpaired=unpaired,
        exact=test.exact,
        relabellings=test.relabellings,
        ranking=ranking,
        top_n=top_n,
        smallest_p=test.smallest_p,
        method=_sentence(n_target, n_rest, exchange, test, pairs is not None, len(unpaired)),
    )


def _checked_maps(maps: ArrayLike) -> np.ndarray:
    maps_PX = as_real(maps, "maps")
    if maps_PX.ndim < 2 or 0 in maps_PX.shape[1:]:
        raise ValueError(f"maps must be (P, L, E), got {maps_PX.shape}")
    if np.isinf(maps_PX).any():
        raise ValueError(f"maps{first_index(np.isinf(maps_PX))} is infinite")
    return maps_PX


def _means_and_effect(
    maps_PM: np.ndarray, exchange: Exchange, precision_M: np.ndarray
) -> dict[str, np.ndarray]:
    """Score, effect and the means of both groups (over pairs where there are pairs), whose difference it is."""
    target_PM, rest_PM = (
        maps_PM[np.concatenate([block[side] for block in exchange.blocks])] for side in (0, 1)
    )
    weights_P = exchange.observed()
    score_M = weights_P @ maps_PM
    score_M[np.ptp(np.concatenate([target_PM, rest_PM]), axis=0) == 0] = 0.0
    return {
        "score": score_M,
        "effect": divide(score_M, _pooled_deviation(target_PM, rest_PM, precision_M)),
        "target_mean": weights_P.clip(min=0) @ maps_PM,
        "rest_mean": -weights_P.clip(max=0) @ maps_PM,
    }


def _step(dtype: np.dtype) -> float:
    """Relative rounding of the type that the maps came in; integers are exact, their means are float64."""
    return float(np.finfo(dtype if dtype.kind == "f" else np.float64).eps)


def _pooled_deviation(target_PM: np.ndarray, rest_PM: np.ndarray, precision_M: np.ndarray) -> np.ndarray:
    """Pooled sample standard deviation, 0 where it is no more than rounding."""
    freedom = max(len(target_PM) + len(rest_PM) - 2, 1)
    squares = len(target_PM) * target_PM.var(0) + len(rest_PM) * rest_PM.var(0)
    deviation = np.sqrt(squares / freedom)
    return np.where(deviation > precision_M, deviation, 0.0)


def _stability(
    maps_PM: np.ndarray,
    exchange: Exchange,
    rng: np.random.Generator,
    draws: int,
    top_n: int,
    ranking: Ranking,
) -> np.ndarray:
    """Share of bootstraps in which a cell is in the top N; 0 where none were asked for."""
    times_M = np.zeros(maps_PM.shape[1])
    for start in range(0, draws, _BOOTSTRAPS_AT_ONCE):
        some = min(_BOOTSTRAPS_AT_ONCE, draws - start)
        key_BM = rank_key(exchange.bootstrap(rng, some) @ maps_PM, ranking)
        first_BN = np.argpartition(key_BM, -top_n, axis=1)[:, -top_n:]
        times_M += np.bincount(first_BN.ravel(), minlength=len(times_M))
    return divide(times_M, draws)


def _sentence(
    target: int, rest: int, exchange: Exchange, test: PermutationTest, paired: bool, left_out: int
) -> str:
    how = f"exchanging prompts within {len(exchange.blocks)} pairs" if paired else "exchanging prompts"
    if isinstance(exchange, TextExchange):
        how = f"exchanging whole texts ({exchange.sizes[0]:,} against {exchange.sizes[1]:,})"
    drawn = f"all {exchange.distinct:,}" if test.exact else f"{test.relabellings:,} random"
    sentence = f"Two-sided permutation test, {target} prompts against {rest}, {how}: {drawn} relabellings"
    if test.most_relabellings > test.relabellings:
        sentence += f", up to {test.most_relabellings:,} for experts that few matched"
    if left_out:
        sentence += f"; {left_out} prompts without a partner left out"
    return f"{sentence}; smallest possible p {test.smallest_p:.2g}."

"""How much of routing a label explains: the token id, the position, a tag of the prompt."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, as_labels, check_size
from ..counting import mutual_information
from ._expected import expected_information


class Explained(NamedTuple):
    """What one label says of another, in nats."""

    information: float
    """Plug-in mutual information: too large, the more so the more values and the fewer tokens there are."""
    expected: float
    """Its mean over all permutations of the labels: what unrelated labels would seem to say."""
    entropy: float
    """Of the explained label: the most that there is to say."""
    share: float
    """(information - expected) / (entropy - expected): 0 for unrelated labels, 1 where one determines the other."""


class TagInformation(NamedTuple):
    """Mutual information of a prompt's tag and the experts that its tokens use, in nats."""

    information: np.ndarray
    chance: np.ndarray
    """Its mean where the tags are exchanged between prompts."""
    high: np.ndarray
    """95 % quantile of the same."""
    p_value: np.ndarray
    """Share of exchanges (and the tags as they are) that reach it."""
    entropy: np.ndarray
    """Of the experts' shares."""


def explained(labels: ArrayLike, experts: ArrayLike) -> Explained:
    """How much of the experts the labels explain, with the bias of few tokens taken off.

    Args:
        labels, experts: one of each a token, (T,) whole numbers; tokens with a negative one are left out.
    Returns:
        `Explained`; all 0 where no token is left, share 0 where only one expert is used.
    Raises:
        ValueError: not whole numbers, lengths that differ.
    Source:
        The adjustment for chance of Vinh, Epps & Bailey 2010 (JMLR 11), divided by the entropy of the experts.
    Trap:
        Tokens count as independent here: a label that is the same in all tokens of a prompt (a language, or a word that
        only one prompt has) also carries whatever else the prompt does. For tags use `tag_information`.
    """
    expert_T = as_labels(experts, "experts", len(np.atleast_1d(np.asarray(experts))))
    label_T = as_labels(labels, "labels", len(expert_T))
    kept = (expert_T >= 0) & (label_T >= 0)
    if not kept.any():
        return Explained(0.0, 0.0, 0.0, 0.0)
    columns = int(expert_T[kept].max()) + 1
    cell, count = np.unique(label_T[kept].astype(np.int64) * columns + expert_T[kept], return_counts=True)
    return explained_counts(cell // columns, cell % columns, count)


def explained_counts(labels: ArrayLike, experts: ArrayLike, counts: ArrayLike) -> Explained:
    """`explained` from how often each pair occurs.

    Args:
        labels, experts: a pair a row, (N,) whole numbers from 0 on; no pair twice.
        counts: tokens of the pair, (N,) whole numbers.
    """
    count_N = as_labels(counts, "counts", len(np.asarray(counts))).astype(np.int64)
    row_N = np.unique(as_labels(labels, "labels", len(count_N)), return_inverse=True)[1]
    column_N = np.unique(as_labels(experts, "experts", len(count_N)), return_inverse=True)[1]
    total = int(count_N.sum())
    if total == 0:
        return Explained(0.0, 0.0, 0.0, 0.0)
    row, column = (np.bincount(at, weights=count_N).astype(np.int64) for at in (row_N, column_N))
    held = count_N > 0
    share_N = count_N[held] / total
    ratio = share_N * total / row[row_N[held]] * total / column[column_N[held]]
    information = max(float(share_N @ np.log(ratio)), 0.0)
    used = column[column > 0] / total
    entropy = float(-(used @ np.log(used))) + 0.0
    expected = min(expected_information(row, column), entropy)
    # Where every token is a value of its own, its experts are told and nothing is learnt.
    share = (information - expected) / (entropy - expected) if entropy - expected > 1e-12 else 0.0
    return Explained(information, expected, entropy, share)


def tag_information(
    counts: ArrayLike, tags: ArrayLike, permutations: int = 200, seed: int = 0
) -> TagInformation:
    """How much the tag of a prompt says of the experts that its tokens use, beside tags exchanged between prompts.

    Args:
        counts: uses of each expert by each prompt, (..., P, E).
        tags: number of each prompt's tag, (P,); -1 for none: that prompt is left out.
        permutations: exchanges of tags between prompts.
    Returns:
        `TagInformation` of arrays (...).
    Raises:
        ValueError: shapes that do not fit, negative or NaN counts.
    Trap:
        Prompts are exchanged, not tokens: the bias of few and long prompts is in `chance`. Where translations share a
        tag this is still right; where prompts of one document do, it is too small.
    """
    counts_XPE = as_amounts(counts, "counts")
    if counts_XPE.ndim < 2:
        raise ValueError(f"counts must have shape (..., P, E), got {counts_XPE.shape}")
    tag_P = as_labels(tags, "tags", counts_XPE.shape[-2])
    check_size(permutations, "permutations")
    kept = tag_P >= 0
    counts_XPE, tag_P = counts_XPE[..., kept, :], np.unique(tag_P[kept], return_inverse=True)[1]
    member_GP = (np.arange(tag_P.max(initial=-1) + 1)[:, None] == tag_P).astype(np.float64)
    rng = np.random.default_rng(seed)
    found = mutual_information(member_GP @ counts_XPE)
    drawn = np.stack(
        [
            mutual_information(member_GP[:, rng.permutation(len(tag_P))] @ counts_XPE)
            for _ in range(permutations)
        ]
    )
    reached = (drawn >= found - 1e-12).sum(0)
    share = counts_XPE.sum(-2)
    entropy = mutual_information(np.eye(share.shape[-1]) * share[..., None, :])
    return TagInformation(
        found, drawn.mean(0), np.quantile(drawn, 0.95, axis=0), (reached + 1) / (permutations + 1), entropy
    )

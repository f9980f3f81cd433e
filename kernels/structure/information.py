"""How much of routing a label explains: the token id, the position, a tag of the prompt."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, as_labels, check_size, to_numpy
from ..counting import mutual_information
from ..statistics.bootstrap import Interval
from ..statistics.jackknife import jackknife_interval
from ._expected import expected_informations


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
    return _explained([_pairs(labels, experts, None)])[0]


def explained_interval(
    labels: ArrayLike, experts: ArrayLike, groups: ArrayLike
) -> tuple[Explained, Interval]:
    """`explained`, and the jackknife interval of its share over groups of prompts.

    Args:
        labels, experts: as for `explained`.
        groups: group of each token's prompt, (T,), from 0 on; see `statistics.jackknife.deal`.
    """
    pairs = _pairs(labels, experts, groups)
    found, *left_out = _explained([pairs, *(pairs.without(g) for g in pairs.groups)])
    return found, jackknife_interval(found.share, [one.share for one in left_out])


class _Pairs(NamedTuple):
    """How often each pair of a label and an expert occurs; labels and experts numbered from 0."""

    count_N: np.ndarray
    row_N: np.ndarray
    column_N: np.ndarray
    count_GN: np.ndarray
    """By group; (0, N) where there are none."""

    @property
    def groups(self) -> np.ndarray:
        """Numbers of the groups that have tokens."""
        return np.flatnonzero(self.count_GN.any(1))

    def without(self, group: int) -> "_Pairs":
        return self._replace(count_N=self.count_N - self.count_GN[group])

    @property
    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each label and of each expert."""
        row, column = (np.bincount(at, self.count_N).astype(np.int64) for at in (self.row_N, self.column_N))
        return row, column

    def explained(self, row: np.ndarray, column: np.ndarray, expected: float) -> Explained:
        """From `totals`, and the information that unrelated labels with these totals seem to have."""
        total = int(self.count_N.sum())
        if total == 0:
            return Explained(0.0, 0.0, 0.0, 0.0)
        both, rows, columns = (_sum_of_logs(counts) / total for counts in (self.count_N, row, column))
        # H(row) + H(column) - H(both); each entropy is log N - sum n log n / N.
        entropy = max(float(np.log(total)) - columns, 0.0)
        information = max(float(np.log(total)) - rows - columns + both, 0.0)
        expected = min(expected, entropy)
        # Where every token is a value of its own, its experts are told and nothing is learnt.
        share = (information - expected) / (entropy - expected) if entropy - expected > 1e-12 else 0.0
        return Explained(information, expected, entropy, share)


def _explained(tables: "Sequence[_Pairs]") -> list[Explained]:
    totals = [table.totals for table in tables]
    expected = expected_informations(totals)
    return [table.explained(*of, chance) for table, of, chance in zip(tables, totals, expected, strict=True)]


def _sum_of_logs(counts: np.ndarray) -> float:
    """Sum of n log n; most counts are small, so their logarithms come from a table."""
    few = counts[counts < len(_TIMES_LOG)]
    many = counts[counts >= len(_TIMES_LOG)].astype(np.float64)
    return float(_TIMES_LOG[few].sum() + many @ np.log(many))


_TIMES_LOG = np.arange(4096.0) * np.log(np.maximum(np.arange(4096.0), 1))
_DENSE_CELLS = 1 << 26
"""Label values × experts up to which pairs are counted in a table (512 MiB) rather than sorted."""


def _pairs(labels: ArrayLike, experts: ArrayLike, groups: ArrayLike | None) -> _Pairs:
    expert_T = np.atleast_1d(to_numpy(experts))
    expert_T = as_labels(expert_T if expert_T.size else [], "experts", len(expert_T))
    label_T = as_labels(labels, "labels", len(expert_T))
    group_T = None if groups is None else as_labels(groups, "groups", len(expert_T))
    kept = (expert_T >= 0) & (label_T >= 0)
    if not kept.all():
        expert_T, label_T = expert_T[kept], label_T[kept]
    experts_there = int(expert_T.max(initial=-1)) + 1
    key_N, cell_T, count_N = _counted(label_T.astype(np.int64) * experts_there + expert_T)
    row_N, column_N = (_counted(part)[1] for part in np.divmod(key_N, max(experts_there, 1)))
    count_GN = np.zeros((0, len(key_N)), np.int64)
    if group_T is not None and len(key_N):
        num_groups = int(group_T.max()) + 1
        at = group_T[kept].astype(np.int64) * len(key_N) + cell_T
        count_GN = np.bincount(at, minlength=num_groups * len(key_N)).reshape(num_groups, -1)
    return _Pairs(count_N, row_N, column_N, count_GN)


def _counted(key_T: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Different keys, rising; the number of each token's; how often each occurs."""
    if int(key_T.max(initial=0)) > min(_DENSE_CELLS, 64 * len(key_T)):
        return np.unique(key_T, return_inverse=True, return_counts=True)
    count_K = np.bincount(key_T, minlength=1)
    key_N = np.flatnonzero(count_K)
    number_K = np.zeros(len(count_K), np.int64)
    number_K[key_N] = np.arange(len(key_N))
    return key_N, number_K[key_T], count_K[key_N]


_MEMBER_CELLS = 1 << 23
"""Exchanged memberships held at once (64 MiB)."""


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
    num_tags, prompts = int(tag_P.max(initial=-1)) + 1, len(tag_P)
    rng = np.random.default_rng(seed)
    orders = [np.arange(prompts), *(rng.permutation(prompts) for _ in range(permutations))]
    step = max(1, _MEMBER_CELLS // max(num_tags * prompts, 1))
    pieces = []
    for start in range(0, len(orders), step):
        tags_BP = tag_P[np.stack(orders[start : start + step])]
        member_BGP = (np.arange(num_tags)[:, None] == tags_BP[:, None]).astype(np.float64)
        # One product for many exchanges: (B G, P) times (..., P, E).
        joint = member_BGP.reshape(-1, prompts) @ counts_XPE
        shape = (*counts_XPE.shape[:-2], len(tags_BP), num_tags, counts_XPE.shape[-1])
        pieces.append(np.moveaxis(mutual_information(joint.reshape(shape)), -1, 0))
    found, drawn = (values := np.concatenate(pieces))[0], values[1:]
    reached = (drawn >= found - 1e-12).sum(0)
    share = counts_XPE.sum(-2)
    entropy = mutual_information(np.eye(share.shape[-1]) * share[..., None, :])
    return TagInformation(
        found, drawn.mean(0), np.quantile(drawn, 0.95, axis=0), (reached + 1) / (permutations + 1), entropy
    )

"""Who is contrasted with whom: from labels and pair ids to rows."""

from collections.abc import Collection, Hashable, Sequence
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import to_numpy
from .exchange import Exchange, is_missing
from .permutation_texts import TextExchange

Labels = ArrayLike | Sequence[Hashable]
OneOrMore = Hashable | Collection[Hashable]


def as_list(labels: Labels, name: str, length: int | None = None) -> list[Hashable]:
    """Labels as plain Python values, from a list, an array, a tensor or a column.

    Raises:
        ValueError: not `length` of them.
    """
    is_array = isinstance(labels, np.ndarray) or hasattr(labels, "detach")
    values: list[Hashable] = to_numpy(labels).tolist() if is_array else list(cast(Sequence[Hashable], labels))
    if length is not None and len(values) != length:
        raise ValueError(f"{name} has {len(values)} entries for {length} prompts")
    return values


def two_groups(
    labels: list[Hashable], target: OneOrMore, rest: OneOrMore | None
) -> tuple[np.ndarray, np.ndarray]:
    """(P,) masks of target and rest prompts; missing labels (None, "", NaN) are in neither.

    Raises:
        ValueError: a group without prompts, or a label in both.
    """
    target_labels = _as_set(target)
    is_target = np.array([not is_missing(label) and label in target_labels for label in labels], bool)
    if rest is None:
        is_rest = ~is_target & np.array([not is_missing(label) for label in labels], bool)
    else:
        rest_labels = _as_set(rest)
        both = target_labels & rest_labels
        if both:
            raise ValueError(f"labels are in target and rest: {sorted(map(str, both))}")
        is_rest = np.array([not is_missing(label) and label in rest_labels for label in labels], bool)
    for name, mask in (("target", is_target), ("rest", is_rest)):
        if not mask.any():
            known = sorted({str(label) for label in labels if not is_missing(label)})
            raise ValueError(f"the {name} group has no prompts; labels are {known[:20]}")
    return is_target, is_rest


def exchange_between(
    is_target: np.ndarray, is_rest: np.ndarray, pairs: Labels | None, texts: Labels | None = None
) -> tuple[Exchange, tuple[int, ...]]:
    """Which prompts may change sides, and the prompts of the two groups that have no partner.

    Raises:
        ValueError: pairs were given and none is complete; a text with prompts in both groups; both were given.
    """
    prompts = len(is_target)
    if texts is not None:
        if pairs is not None:
            raise ValueError("prompts are exchanged within pairs or in whole texts: give `pairs` or `texts`")
        return TextExchange.of_texts(is_target, is_rest, as_list(texts, "texts", prompts)), ()
    if pairs is None:
        return Exchange.between(np.flatnonzero(is_target), np.flatnonzero(is_rest), prompts), ()
    exchange = Exchange.within_pairs(is_target, is_rest, as_list(pairs, "pairs", prompts))
    if not exchange.blocks:
        raise ValueError("no pair has a prompt on both sides: leave `pairs` out for an unpaired test")
    left_out = (is_target | is_rest) & (exchange.observed() == 0)
    return exchange, tuple(int(row) for row in np.flatnonzero(left_out))


def _as_set(labels: OneOrMore) -> set[Hashable]:
    return set(labels) if isinstance(labels, list | tuple | set | frozenset) else {labels}

"""The priority stack behind every expert cache: one pass, all cache sizes (Mattson et al. 1970).

Priority of an expert, larger is kept longer; equal ones by most recent use:
    lru      all equal
    lfu      uses so far
    belady   minus the number of its next access
    segment  uses in the next m - 1 tokens, and 1 if the current token still needs it

Three versions of one algorithm: the plain one, which the tests read; a compiled one in which priority and most recent
use are one whole number; and for lru, where an access only pushes down what stood above it, one without a stack.
"""

from collections.abc import Sequence

import numpy as np

from ..compiled import compiled_if_worth_it

POLICIES = ("lru", "lfu", "belady", "segment")
_LFU, _BELADY, _SEGMENT = 1, 2, 3

_PLAIN_STEP = 1e-7
"""Seconds for one expert of the stack, at one access, in the plain version."""

NEVER = 1 << 62
_UNIT = 1 << 32
"""A step of priority: more than the accesses of any sequence, which tell equals apart."""


def stack_hits(
    ids_TK: np.ndarray, starts: np.ndarray, num_experts: int, policy: str, m: int = 1
) -> np.ndarray:
    """At which depth of the stack the accesses of each sequence find their experts.

    Args:
        ids_TK: experts of the tokens of all sequences, -1 where a slot is empty; none twice in a token.
        starts: first token of each sequence, and the number of tokens at the end, (S + 1,).
        num_experts: E.
        policy: one of `POLICIES`; m is the window of "segment".
    Returns:
        (S, E) int64: accesses that a cache of 1, 2, ... experts would serve, and no smaller one.
    """
    code = POLICIES.index(policy)
    served_SE = np.zeros((len(starts) - 1, num_experts), np.int64)
    work = _PLAIN_STEP * ids_TK.size * num_experts
    if code == 0:
        if fast := compiled_if_worth_it(_lru_loop, work):
            kind = np.int16 if num_experts < 1 << 15 else np.int32
            fast(served_SE, np.zeros(num_experts, kind), ids_TK, starts)
            return served_SE
    elif fast := compiled_if_worth_it(_stack_loop, work):
        next_use = np.zeros(ids_TK.shape if code == _BELADY else (0, 0), np.int64)
        fast(served_SE, np.zeros((3, num_experts), np.int64), ids_TK, starts, code, m, next_use)
        return served_SE
    for served_E, first, end in zip(served_SE, starts[:-1], starts[1:], strict=True):
        filled = ids_TK[first:end] >= 0
        experts = ids_TK[first:end][filled].astype(np.int64)
        ends = np.cumsum(filled.sum(1)).tolist()
        following = _next_uses(experts).tolist() if code == _BELADY else []
        served_E[:] = _plain_stack(experts.tolist(), ends, num_experts, code, m, following)
    return served_SE


def _next_uses(experts: np.ndarray) -> np.ndarray:
    """For each access the number of the next access of the same expert, `NEVER` where there is none."""
    order = np.argsort(experts, kind="stable")
    following = np.full(len(experts), NEVER)
    same = experts[order][1:] == experts[order][:-1]
    following[order[:-1][same]] = order[1:][same]
    return following


def _plain_stack(
    experts: Sequence[int],
    ends: Sequence[int],
    num_experts: int,
    policy: int,
    m: int,
    next_use: Sequence[int],
) -> list[int]:
    """One sequence: accessed experts, and for each token the number of accesses up to its end."""
    served, depth_of, worth = ([0] * num_experts for _ in range(3))
    last = [-1] * num_experts
    stack: list[int] = []
    start = ahead = 0
    for token, end in enumerate(ends):
        if policy == _SEGMENT:
            until = ends[min(token + m, len(ends)) - 1]
            for number in range(ahead, until):
                worth[experts[number]] += 1
            ahead = until
        for depth, expert in enumerate(stack):
            depth_of[expert] = depth
        free = len(stack)
        for expert in experts[start:end]:
            if last[expert] < 0:
                served[free] += 1
                free += 1
            else:
                served[depth_of[expert]] += 1
        for number in range(start, end):
            expert = experts[number]
            _move_to_top(stack, expert, worth, last)
            last[expert] = number
            worth[expert] += (0, 1, 0, -1)[policy]
            if policy == _BELADY:
                worth[expert] = -next_use[number]
        start = end
    return served


def _move_to_top(stack: list[int], expert: int, worth: list[int], last: list[int]) -> None:
    """A cache that lacked the expert evicts the least worthy of what it held: each depth passes one down."""
    if last[expert] < 0:
        stack.append(expert)
    carried, depth = expert, 0
    while stack[depth] != expert:
        here = stack[depth]
        if depth == 0 or (worth[carried], last[carried]) > (worth[here], last[here]):
            stack[depth], carried = carried, here
        depth += 1
    stack[depth] = carried


def _lru_loop(served_SE: np.ndarray, depth_E: np.ndarray, ids_TK: np.ndarray, starts: np.ndarray) -> None:
    """Depths by expert: an access adds one to all that were above it. An expert not yet seen has depth E."""
    num_experts = len(depth_E)
    for s in range(len(starts) - 1):
        depth_E[:] = num_experts
        seen = 0
        for t in range(starts[s], starts[s + 1]):
            free = seen
            for i in range(ids_TK.shape[1]):
                expert = ids_TK[t, i]
                if expert >= 0:
                    if depth_E[expert] == num_experts:
                        served_SE[s, free] += 1
                        free += 1
                    else:
                        served_SE[s, depth_E[expert]] += 1
            for i in range(ids_TK.shape[1]):
                expert = ids_TK[t, i]
                if expert >= 0:
                    depth = depth_E[expert]
                    if depth == num_experts:
                        depth = depth_E.dtype.type(seen)
                        seen += 1
                    for e in range(num_experts):
                        depth_E[e] += depth_E[e] < depth
                    depth_E[expert] = 0


def _stack_loop(
    served_SE: np.ndarray,
    room_3E: np.ndarray,
    ids_TK: np.ndarray,
    starts: np.ndarray,
    policy: int,
    m: int,
    next_use_TK: np.ndarray,
) -> None:
    """The twin of `_plain_stack` for the other policies, in the same order; `room_3E` and `next_use_TK` to work in.

    `key` is priority × 2^32 + the number of the last access: one comparison instead of two.
    """
    stack, depth_of, key = room_3E[0], room_3E[1], room_3E[2]
    for s in range(len(starts) - 1):
        first, last = starts[s], starts[s + 1]
        if policy == _BELADY:
            depth_of[:] = NEVER
            number = 0
            for t in range(last - 1, first - 1, -1):
                for i in range(ids_TK.shape[1] - 1, -1, -1):
                    expert = ids_TK[t, i]
                    if expert >= 0:
                        # Counted from the end: the sooner the next access, the larger.
                        next_use_TK[t, i] = depth_of[expert]
                        depth_of[expert] = number
                        number += 1
        key[:] = 0
        depth_of[:] = -1
        size = number = 0
        ahead = first
        for t in range(first, last):
            if policy == _SEGMENT:
                while ahead < min(t + m, last):
                    for i in range(ids_TK.shape[1]):
                        if ids_TK[ahead, i] >= 0:
                            key[ids_TK[ahead, i]] += _UNIT
                    ahead += 1
            for depth in range(size):
                depth_of[stack[depth]] = depth
            free = size
            for i in range(ids_TK.shape[1]):
                expert = ids_TK[t, i]
                if expert >= 0:
                    if depth_of[expert] < 0:
                        served_SE[s, free] += 1
                        free += 1
                    else:
                        served_SE[s, depth_of[expert]] += 1
            for i in range(ids_TK.shape[1]):
                expert = ids_TK[t, i]
                if expert < 0:
                    continue
                if depth_of[expert] < 0:
                    stack[size] = expert
                    size += 1
                    depth_of[expert] = 0
                carried = stack[0]
                if carried != expert:
                    stack[0] = expert
                    worth = key[carried]
                    depth = 1
                    here = stack[1]
                    while here != expert:
                        other = key[here]
                        stays = worth > other
                        stack[depth] = carried if stays else here
                        carried = here if stays else carried
                        worth = other if stays else worth
                        depth += 1
                        here = stack[depth]
                    stack[depth] = carried
                if policy == _LFU:
                    key[expert] = (key[expert] // _UNIT + 1) * _UNIT + number
                elif policy == _SEGMENT:
                    key[expert] = (key[expert] // _UNIT - 1) * _UNIT + number
                else:
                    following = next_use_TK[t, i]
                    key[expert] = number - NEVER if following == NEVER else following
                number += 1

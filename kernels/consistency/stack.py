"""The priority stack behind every expert cache: one pass, all cache sizes (Mattson et al. 1970).

Priority of an expert, larger is kept longer; equal ones by most recent use:
    lru      all equal
    lfu      uses so far
    belady   minus the number of its next access
    segment  uses in the next m - 1 tokens, and 1 if the current token still needs it
"""

from collections.abc import Sequence

import numpy as np

from ..compiled import twin

POLICIES = ("lru", "lfu", "belady", "segment")
_LFU, _BELADY, _SEGMENT = 1, 2, 3

_PLAIN_STEP = 1e-7
"""Seconds for one expert of the stack, at one access, in the plain version."""

NEVER = 1 << 62


def stack_hits(
    experts: np.ndarray, ends: np.ndarray, num_experts: int, policy: str, m: int = 1
) -> np.ndarray:
    """At which depth of the stack each access of one sequence finds its expert.

    Args:
        experts: accessed experts, token after token, (N,) int64.
        ends: for each token the number of accesses up to its end, (T,) int64.
        num_experts: E.
        policy: one of `POLICIES`; m is the window of "segment".
    Returns:
        (E,) int64: accesses that a cache of 1, 2, ... experts would serve, and no smaller one.
    """
    code = POLICIES.index(policy)
    next_use = _next_uses(experts) if policy == "belady" else np.zeros(0, np.int64)
    if fast := twin(_stack_loop, _PLAIN_STEP * len(experts) * num_experts):
        served = np.zeros(num_experts, np.int64)
        fast(served, np.zeros((4, num_experts), np.int64), experts, ends, code, m, next_use)
        return served
    return np.array(_plain_stack(experts.tolist(), ends.tolist(), num_experts, code, m, next_use.tolist()))


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
    served, depth_of, worth, last = (
        [0] * num_experts,
        [0] * num_experts,
        [0] * num_experts,
        [-1] * num_experts,
    )
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


def _stack_loop(
    served_E: np.ndarray,
    room_4E: np.ndarray,
    experts: np.ndarray,
    ends: np.ndarray,
    policy: int,
    m: int,
    next_use: np.ndarray,
) -> None:
    """The twin of `_plain_stack`, in the same order; `room_4E` are zeros to work in."""
    stack, depth_of, worth, last = room_4E[0], room_4E[1], room_4E[2], room_4E[3]
    last[:] = -1
    size = start = ahead = 0
    for token in range(len(ends)):
        end = ends[token]
        if policy == _SEGMENT:
            until = ends[min(token + m, len(ends)) - 1]
            for number in range(ahead, until):
                worth[experts[number]] += 1
            ahead = until
        for depth in range(size):
            depth_of[stack[depth]] = depth
        free = size
        for number in range(start, end):
            expert = experts[number]
            if last[expert] < 0:
                served_E[free] += 1
                free += 1
            else:
                served_E[depth_of[expert]] += 1
        for number in range(start, end):
            expert = experts[number]
            if last[expert] < 0:
                stack[size] = expert
                size += 1
            carried = expert
            depth = 0
            while stack[depth] != expert:
                here = stack[depth]
                more = worth[carried] - worth[here]
                if depth == 0 or more > 0 or (more == 0 and last[carried] > last[here]):
                    stack[depth] = carried
                    carried = here
                depth += 1
            stack[depth] = carried
            last[expert] = number
            if policy == _LFU:
                worth[expert] += 1
            elif policy == _BELADY:
                worth[expert] = -next_use[number]
            elif policy == _SEGMENT:
                worth[expert] -= 1
        start = end

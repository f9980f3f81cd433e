"""The priority stack behind every expert cache: one pass, all cache sizes (Mattson et al. 1970).

Priority of an expert, larger is kept longer; equal ones by most recent use:
    lru      all equal
    lfu      uses so far
    belady   minus the number of its next access
    segment  uses in the next m - 1 tokens, and 1 if the current token still needs it
"""

from collections.abc import Sequence


def stack_hits(
    experts: Sequence[int],
    ends: Sequence[int],
    num_experts: int,
    policy: str,
    m: int,
    next_use: Sequence[int],
) -> list[int]:
    """At which depth of the stack each access of a sequence finds its expert.

    Args:
        experts: accessed experts, token after token.
        ends: for each token the number of accesses up to its end.
        m: window of the segment policy.
        next_use: for "belady", the number of the next access of the same expert.
    Returns:
        E numbers: accesses that a cache of 1, 2, ... experts would serve, and no smaller one.
    """
    served = [0] * num_experts
    depth_of = [0] * num_experts
    worth = [0] * num_experts
    last = [-1] * num_experts
    stack: list[int] = []
    start = ahead = 0
    for token, end in enumerate(ends):
        if policy == "segment":
            until = ends[min(token + m, len(ends)) - 1]
            for number in range(ahead, until):
                worth[experts[number]] += 1
            ahead = until
        for depth, expert in enumerate(stack):
            depth_of[expert] = depth
        first_uses = len(stack)
        for number in range(start, end):
            expert = experts[number]
            if last[expert] < 0:
                served[first_uses] += 1
                first_uses += 1
            else:
                served[depth_of[expert]] += 1
        for number in range(start, end):
            expert = experts[number]
            _move_to_top(stack, expert, last[expert] >= 0, worth, last)
            last[expert] = number
            if policy == "lfu":
                worth[expert] += 1
            elif policy == "belady":
                worth[expert] = -next_use[number]
            elif policy == "segment":
                worth[expert] -= 1
        start = end
    return served


def _move_to_top(stack: list[int], expert: int, known: bool, worth: list[int], last: list[int]) -> None:
    """Every cache takes the expert in; each evicts the least worthy of what it held, if it did not hold
    it."""
    if not known:
        stack.append(expert)
    carried, depth = expert, 0
    while stack[depth] != expert:
        here = stack[depth]
        if depth == 0 or (worth[carried], last[carried]) > (worth[here], last[here]):
            stack[depth], carried = carried, here
        depth += 1
    stack[depth] = carried

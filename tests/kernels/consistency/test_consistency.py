# pyright: reportArgumentType=false
"""SRP against windows cut by hand; caches against a simulation of one cache of one size at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.kernels.consistency import (
    cache_hit_rate,
    hit_curve,
    hit_curves,
    independent_window_uses,
    routing_performance,
    segment_cache_hit_rate,
    segment_hit_curve,
    segment_routing_performance,
    window_uses,
    window_uses_by_group,
)

E = 6
quick = settings(deadline=None, max_examples=80)
TRACE = [0, 1, 0, 2, 0, 1, 2, 2]


@st.composite
def sequences(draw):
    """(T, k) ids: distinct experts in any order, some slots empty."""
    tokens, slots = draw(st.integers(0, 14)), draw(st.integers(1, 3))
    rows = [draw(st.permutations(range(E)))[:slots] for _ in range(tokens)]
    ids = np.array(rows, int).reshape(tokens, slots)
    empty = draw(st.lists(st.integers(0, max(tokens * slots - 1, 0)), max_size=4))
    if tokens:
        ids.reshape(-1)[empty] = -1
    return ids


def srp_by_hand(masks, m):
    """Masks: one list of 0/1 for each expert that shares the threshold."""
    f = [sum(mask[t : t + m]) for mask in masks for t in range(len(mask) - m + 1)]
    used = sum(f)
    best = (0.0, 0, 0.0)
    for alpha in range(m, 0, -1):
        kept = [x for x in f if x >= alpha]
        value = 2 * sum(kept) / (m * len(kept) + used) if used else 0.0
        if value >= best[0] and used:
            best = (value, alpha, m * len(kept) / used)
    return best


def test_the_worked_example_of_srp():
    ids = np.where([1, 1, 0, 0, 1, 1, 1, 0], 0, -1)
    for pool in ("expert", "layer"):
        srp, threshold, size_ratio = segment_routing_performance(ids, 1, 2, pool)
        assert srp == pytest.approx(0.857143, abs=1e-6)
        assert threshold == 1
        assert size_ratio == pytest.approx(1.3333, abs=1e-4)


@quick
@given(sequences(), st.integers(1, 6))
def test_srp_equals_windows_cut_by_hand(ids, m):
    masks = [[int(e in row) for row in ids.tolist()] for e in range(E)]
    by_expert = segment_routing_performance(ids, E, m)
    for e in range(E):
        expected = srp_by_hand([masks[e]], m)
        assert (by_expert.srp[e], by_expert.threshold[e], by_expert.size_ratio[e]) == pytest.approx(expected)
    assert tuple(segment_routing_performance(ids, E, m, "layer")) == pytest.approx(srp_by_hand(masks, m))
    assert (by_expert.srp <= 1 + 1e-12).all()


@quick
@given(sequences())
def test_srp_of_single_tokens_is_one_for_every_expert_in_use(ids):
    used = np.isin(np.arange(E), ids)
    assert segment_routing_performance(ids, E, 1).srp.tolist() == used.astype(float).tolist()


@quick
@given(sequences(), sequences(), st.integers(1, 4))
def test_tables_of_windows_add_up_over_sequences(one, other, m):
    table = window_uses(one, E, m) + window_uses(other, E, m)
    assert (table.sum(1) == max(len(one) - m + 1, 0) + max(len(other) - m + 1, 0)).all()
    masks = [[[int(e in row) for row in ids.tolist()] for e in range(E)] for ids in (one, other)]
    f = [sum(mask[t : t + m]) for ids in masks for mask in ids for t in range(len(mask) - m + 1)]
    assert routing_performance(table, "layer").size_ratio >= 0
    assert (np.bincount(f, minlength=m + 1) if f else np.zeros(m + 1)).tolist() == table.sum(0).tolist()


def test_windows_of_independent_tokens_are_what_load_alone_gives():
    rng = np.random.default_rng(5)
    shares = np.array([0.9, 0.5, 0.1, 0.0, 1.0])
    ids = np.where(rng.random((40_000, 5)) < shares, np.arange(5), -1)
    for m in (1, 5, 16):
        seen = window_uses(ids, 5, m)
        expected = independent_window_uses(shares, m)
        assert expected.sum(1) == pytest.approx(1)
        np.testing.assert_allclose(seen / seen.sum(1, keepdims=True), expected, atol=0.025)
        assert routing_performance(seen, "layer").srp == pytest.approx(
            routing_performance(expected, "layer").srp, abs=0.01
        )


def one_cache(ids, size, policy, m=1):
    """The definition, one access after another, for one size."""
    rows = [[e for e in row if e >= 0] for row in ids.tolist()]
    accesses = [e for row in rows for e in row]
    cache, last, uses = set(), {}, {}
    hits = number = 0
    for t, row in enumerate(rows):
        before = set(cache)
        start = number
        for place, expert in enumerate(row):
            if expert in before or (expert not in last and len(cache) < size):
                hits += 1
            if expert not in cache:
                if len(cache) == size:
                    ahead = [e for later in rows[t + 1 : t + m] for e in later]

                    def worth(e, number=number, place=place, row=row, ahead=ahead):
                        if policy == "lru":
                            return last[e]
                        if policy == "lfu":
                            return uses[e], last[e]
                        if policy == "belady":
                            rest = accesses[number + 1 :]
                            return -(rest.index(e) if e in rest else len(accesses)), last[e]
                        return ahead.count(e) + (e in row[place + 1 :]), last[e]

                    cache.remove(min(cache, key=worth))
                cache.add(expert)
            last[expert], uses[expert] = number, uses.get(expert, 0) + 1
            number += 1
        assert number == start + len(row)
    return hits, len(accesses)


@quick
@given(sequences(), st.sampled_from(["lru", "lfu", "belady"]))
def test_one_pass_over_a_stack_equals_a_cache_of_each_size(ids, policy):
    curve = hit_curve(ids, E, policy)
    expected = [one_cache(ids, size, policy) for size in range(1, E + 1)]
    assert [(int(hits), curve.accesses) for hits in curve.hits] == expected


@quick
@given(sequences(), st.integers(1, 6))
def test_the_segment_cache_equals_a_cache_of_each_size(ids, m):
    curve = segment_hit_curve(ids, E, m)
    expected = [one_cache(ids, size, "segment", m) for size in range(1, E + 1)]
    assert [(int(hits), curve.accesses) for hits in curve.hits] == expected


def test_the_worked_examples_of_caches():
    rates = [segment_cache_hit_rate(TRACE, 3, 2, size) for size in (1, 2, 3)]
    assert rates == [0.25, 0.75, 1.0]
    assert segment_cache_hit_rate(np.array(TRACE)[:, None], 3, 2, [1, 2, 3]).tolist() == rates
    assert [cache_hit_rate(TRACE, 3, size) for size in (1, 2, 3)] == [0.25, 0.625, 1.0]
    assert isinstance(cache_hit_rate(TRACE, 3, 2, "lfu"), float)
    assert cache_hit_rate(np.zeros((0, 2), int), 3, 1) == 0


@quick
@given(sequences())
def test_hit_rates_grow_with_the_cache_and_end_at_one(ids):
    for policy in ("lru", "lfu", "belady"):
        rate = hit_curve(ids, E, policy).rate
        assert (np.diff(rate) >= 0).all()
        assert rate[-1] == (1 if (ids >= 0).any() else 0)


@quick
@given(st.lists(st.integers(0, 4), max_size=30))
def test_no_policy_beats_belady_where_a_token_uses_one_expert(experts):
    ids = np.array(experts, int)
    best = hit_curve(ids, 5, "belady").hits
    assert (hit_curve(ids, 5, "lru").hits <= best).all()
    assert (hit_curve(ids, 5, "lfu").hits <= best).all()
    assert (segment_hit_curve(ids, 5, 3).hits <= best).all()


def test_curves_add_up_over_sequences():
    one, other = hit_curve(TRACE, 3), hit_curve([2, 2], 3)
    both = one + other
    assert both.accesses == 10
    assert both.rate.tolist() == [0.4, 0.7, 1.0]


@quick
@given(st.lists(sequences(), min_size=1, max_size=4), st.sampled_from(["lru", "lfu", "belady", "segment"]))
def test_sequences_one_behind_the_other_are_each_by_itself(found, policy):
    slots = max(ids.shape[1] for ids in found)
    padded = [np.pad(ids, ((0, 0), (0, slots - ids.shape[1])), constant_values=-1) for ids in found]
    starts = np.cumsum([0, *map(len, found)])
    curves = hit_curves(np.concatenate(padded), E, starts, policy=policy, m=3)
    for ids, hits, accesses in zip(found, curves.hits, curves.accesses, strict=True):
        alone = segment_hit_curve(ids, E, 3) if policy == "segment" else hit_curve(ids, E, policy)
        assert (hits.tolist(), int(accesses)) == (alone.hits.tolist(), alone.accesses)
    assert curves.total().accesses == sum((ids >= 0).sum() for ids in found)
    groups = np.arange(len(found)) % 3 - 1
    table = window_uses_by_group(np.concatenate(padded), E, 2, starts, groups, 2)
    for group in range(2):
        expected = [window_uses(ids, E, 2) for ids, of in zip(found, groups, strict=True) if of == group]
        assert (table[group] == sum(expected, np.zeros((E, 3), int))).all()


def test_renaming_experts_changes_nothing():
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((60, E)), 1)[:, :2]
    renamed = rng.permutation(E)[ids]
    for policy in ("lru", "lfu", "belady"):
        assert (hit_curve(ids, E, policy).hits == hit_curve(renamed, E, policy).hits).all()
    assert segment_routing_performance(ids, E, 8, "layer") == segment_routing_performance(
        renamed, E, 8, "layer"
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: hit_curve([[0, 0]], 3), r"ids\[0\] names an expert twice: \[0, 0\]"),
        (lambda: window_uses([[0, 1], [2, 2]], 3, 1), r"ids\[1\] names an expert twice"),
        (lambda: hit_curve([[3]], 3), r"ids\[0, 0\] is 3"),
        (lambda: hit_curve([[0]], 3, "fifo"), "policy"),  # pyright: ignore[reportArgumentType]
        (lambda: cache_hit_rate([[0]], 3, 0), "size must be"),
        (lambda: cache_hit_rate([[0]], 3, [1, 4]), "from 1 to 3"),
        (lambda: segment_cache_hit_rate([[0]], 3, 0, 1), "m must be"),
        (lambda: segment_routing_performance([[0]], 3, 0), "m must be"),
        (lambda: segment_routing_performance([[0]], 3, 1, "model"), "pool"),  # pyright: ignore[reportArgumentType]
        (lambda: segment_routing_performance([[0.0]], 3, 1), "integers"),
        (lambda: hit_curves([[0], [1]], 3, [0, 1]), "rise from 0 to the number of tokens, 2"),
        (lambda: hit_curves([[0], [1]], 3, [0, 2, 1, 2]), "rise from 0"),
        (lambda: independent_window_uses([1.5], 3), "from 0 to 1"),
        (lambda: routing_performance([[1.0]]), r"m \+ 1"),
    ],
)
def test_wrong_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()

"""repeated_assignment and jaccard against loops over sets."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moescope.kernels.counting import jaccard, repeated_assignment, repeated_assignment_chance

sequences = hnp.arrays(
    np.int16, st.tuples(st.integers(0, 12), st.integers(1, 4)), elements=st.integers(-1, 5)
)
quick = settings(deadline=None, max_examples=80)


def expert_sets(ids, depth=None):
    return [{e for e in row[:depth] if e >= 0} for row in ids.tolist()]


@quick
@given(sequences, st.integers(1, 4))
def test_repeats_equal_a_loop(ids, depth):
    depth = min(depth, ids.shape[1])
    sets = expert_sets(ids, depth)
    hits = [bool(a & b) for a, b in pairwise(sets)]
    assert repeated_assignment(ids, depth) == pytest.approx(np.mean(hits) if hits else 0.0)


@quick
@given(sequences)
def test_overlaps_equal_a_loop(ids):
    sets = expert_sets(ids)

    def overlap(a, b):
        return len(a & b) / len(a | b) if a | b else 0.0

    everywhere = [overlap(a, b) for a, b in combinations(sets, 2)]
    neighbours = [overlap(a, b) for a, b in pairwise(sets)]
    assert jaccard(ids) == pytest.approx(np.mean(everywhere) if everywhere else 0.0, abs=1e-12)
    assert jaccard(ids, "adjacent") == pytest.approx(np.mean(neighbours) if neighbours else 0.0, abs=1e-12)


def test_a_hand_example():
    ids = np.array([[0, 1], [1, 2], [1, 2], [3, 4]])
    assert repeated_assignment(ids) == pytest.approx(1 / 3)
    assert repeated_assignment(ids, depth=2) == pytest.approx(2 / 3)
    assert jaccard(ids, "adjacent") == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert jaccard(ids) == pytest.approx((1 / 3 + 1 / 3 + 0 + 1 + 0 + 0) / 6)


def test_chance_is_what_even_independent_choices_give():
    assert repeated_assignment_chance(8, 1) == 1 / 8
    assert repeated_assignment_chance(8, 2) == pytest.approx(0.4642857)
    assert repeated_assignment_chance(2, 2) == 1
    ids = np.argsort(np.random.default_rng(0).random((20_000, 8)), axis=1)[:, :2]
    assert repeated_assignment(ids, 2) == pytest.approx(repeated_assignment_chance(8, 2), abs=0.015)
    assert repeated_assignment(ids, 1) == pytest.approx(1 / 8, abs=0.01)


def test_a_handful_of_very_many_experts_is_no_burden():
    ids = np.array([[2**31 - 1, 5], [2**31 - 1, 6]])
    assert jaccard(ids) == pytest.approx(1 / 3)
    assert jaccard(np.array([[255, 0], [255, 1]], np.uint8)) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: repeated_assignment([[0, 1]], 3), "depth is 3"),
        (lambda: repeated_assignment([[0, 1]], 0), "depth"),
        (lambda: repeated_assignment([[0], [-3]]), r"ids\[1, 0\] is -3"),
        (lambda: jaccard([[0.5]]), "integers"),
        (lambda: jaccard([[0]], "some"), "pairs"),  # pyright: ignore[reportArgumentType]
        (lambda: repeated_assignment_chance(2, 3), "depth is 3"),
    ],
)
def test_wrong_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()

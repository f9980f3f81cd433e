"""counting: hand examples, naive loops, and what must be refused."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moescope.kernels._arrays import row_chunks
from moescope.kernels.counting import (
    co_activation,
    count_experts,
    load_imbalance,
    mutual_information,
    transitions,
)

E = 6
ids_arrays = hnp.arrays(
    st.sampled_from([np.int8, np.int16, np.int32, np.int64]),
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9),
    elements=st.integers(-1, E - 1),
)
quick = settings(deadline=None, max_examples=60)


def counted_by_hand(ids, groups=None, weights=None):
    table = {}
    for t, row in enumerate(ids.tolist()):
        for slot, expert in enumerate(row):
            if expert >= 0 and (groups is None or groups[t] >= 0):
                key = (0 if groups is None else int(groups[t]), expert)
                table[key] = table.get(key, 0) + (1 if weights is None else float(weights[t, slot]))
    return table


def as_table(counts):
    return {(g, e): v for (g, e), v in np.ndenumerate(np.atleast_2d(counts)) if v}


@quick
@given(ids_arrays)
def test_counts_equal_a_loop(ids):
    counts = count_experts(ids, E)
    assert counts.shape == (E,)
    assert counts.dtype == np.int64
    assert as_table(counts) == counted_by_hand(ids)


@quick
@given(ids_arrays, st.data())
def test_grouped_and_weighted_counts_equal_a_loop(ids, data):
    groups = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=len(ids), max_size=len(ids))), int)
    counts = count_experts(ids, E, groups=groups, num_groups=4)
    assert counts.shape == (4, E)
    assert as_table(counts) == counted_by_hand(ids, groups)
    weights = np.arange(ids.size, dtype=np.float32).reshape(ids.shape) + 1
    sums = count_experts(ids, E, groups=groups, num_groups=4, weights=weights)
    assert sums.dtype == np.float64
    assert as_table(sums) == counted_by_hand(ids, groups, weights)


@quick
@given(ids_arrays)
def test_pair_counts_equal_a_loop(ids):
    naive = np.zeros((E, E), int)
    for row in ids.tolist():
        experts = {e for e in row if e >= 0}
        for e in experts:
            naive[e, e] += 1
        for a, b in combinations(sorted(experts), 2):
            naive[a, b] += 1
            naive[b, a] += 1
    assert (co_activation(ids, E) == naive).all()


@quick
@given(ids_arrays, st.data())
def test_transitions_equal_a_loop(a, data):
    b = data.draw(hnp.arrays(np.int16, (len(a), 3), elements=st.integers(-1, 4)))
    naive = np.zeros((E, 5), int)
    for row_a, row_b in zip(a.tolist(), b.tolist(), strict=True):
        for x in row_a:
            for y in row_b:
                if x >= 0 and y >= 0:
                    naive[x, y] += 1
    assert (transitions(a, b, E, 5) == naive).all()


def test_pieces_do_not_change_a_count(monkeypatch):
    rng = np.random.default_rng(1)
    ids, groups = rng.integers(-1, 12, (1000, 4)), rng.integers(-1, 7, 1000)
    weights = rng.random((1000, 4))
    whole = (
        count_experts(ids, 12, groups),
        count_experts(ids, 12, np.sort(groups)),
        count_experts(ids, 12, groups, weights=weights),
        co_activation(ids, 12),
    )

    def small(rows, slots, least=0):
        return row_chunks(rows, slots, 60)

    monkeypatch.setattr("moescope.kernels.counting.row_chunks", small)
    monkeypatch.setattr("moescope.kernels.counting.pairs.row_chunks", small)
    pieces = (
        count_experts(ids, 12, groups),
        count_experts(ids, 12, np.sort(groups)),
        count_experts(ids, 12, groups, weights=weights),
        co_activation(ids, 12),
    )
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int32])
def test_ids_of_any_integer_width_are_accepted(dtype):
    ids = np.array([[0, 5], [5, 3]], dtype)
    assert count_experts(ids, 6).tolist() == [1, 0, 0, 1, 0, 2]
    assert co_activation(ids, 6)[5].tolist() == [1, 0, 0, 1, 0, 2]


def test_tensors_lists_and_vectors_are_accepted():
    ids = torch.tensor([[0, 1], [1, -1]])
    weights = torch.tensor([[0.75, 0.25], [0.5, float("nan")]], dtype=torch.bfloat16)
    assert count_experts(ids, 2).tolist() == [1, 2]
    assert count_experts(ids, 2, weights=weights).tolist() == [0.75, 0.75]
    assert count_experts([[0, 1], [1, -1]], 2, groups=torch.tensor([1, 0])).tolist() == [[0, 1], [1, 1]]
    assert count_experts(np.array([1, 1, 0]), 2).tolist() == [1, 2]
    assert count_experts([], 2).tolist() == [0, 0]
    assert count_experts(ids.requires_grad_(False), 2).sum() == 3


def test_expert_ids_may_be_large():
    ids = np.array([[2**20, 3]], np.int32)
    assert np.flatnonzero(count_experts(ids, 2**20 + 1)).tolist() == [3, 2**20]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: count_experts([[0, 6]], 6), r"ids\[0, 1\] is 6"),
        (lambda: count_experts([[0, 1], [2, -2]], 6), r"ids\[1, 1\] is -2"),
        (lambda: count_experts(np.array([[0, 255]], np.uint8), 255), r"ids\[0, 1\] is 255"),
        (lambda: count_experts([[0.0, 1.0]], 6), "must be integers"),
        (lambda: count_experts([[True]], 6), "must be integers"),
        (lambda: count_experts(np.zeros((2, 2, 2), int), 6), r"\(T, k\)"),
        (lambda: count_experts([[0]], 6, groups=[0, 1]), "groups must have shape"),
        (lambda: count_experts([[0]], 6, groups=[0.0]), "groups must be integers"),
        (lambda: count_experts([[0]], 6, groups=[3], num_groups=3), r"groups\[0\] is 3"),
        (lambda: count_experts([[0]], 6, groups=[-2]), r"groups\[0\] is -2"),
        (lambda: count_experts([[0]], 6, weights=[[0.5, 0.5]]), "weights have shape"),
        (lambda: count_experts([[0, 1]], 6, weights=[[0.5, float("nan")]]), r"weights\[0, 1\] is NaN"),
        (lambda: count_experts([[0, 1]], 6, weights=[[0.5, float("inf")]]), r"weights\[0, 1\] is inf"),
        (lambda: count_experts([[0]], 0), "num_experts"),
        (lambda: count_experts([[0]], 1.5), "num_experts"),  # pyright: ignore[reportArgumentType]
        (lambda: co_activation([[0, 9]], 9), r"ids\[0, 1\] is 9"),
        (lambda: transitions([[0]], [[0], [1]], 2, 2), "same tokens"),
        (lambda: transitions([[0]], [[7]], 2, 7), r"ids_b\[0, 0\] is 7"),
    ],
)
def test_wrong_input_is_refused_and_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_an_id_out_of_range_is_named_by_its_place_in_the_whole():
    ids = np.zeros((100_000, 4), np.uint8)
    ids[77_777, 2] = 9
    with pytest.raises(ValueError, match=r"ids\[77777, 2\] is 9"):
        count_experts(ids, 9)


def test_load_imbalance_of_a_hand_example():
    measures = load_imbalance([4, 2, 2, 0])
    assert measures == pytest.approx(
        {
            "max_over_mean": 2.0,
            "cv": np.sqrt(2) / 2,
            "gini": 0.375,
            "entropy": 1.5 * np.log(2),
            "entropy_normalised": 0.75,
            "dead": 1,
        }
    )


def test_load_imbalance_at_its_ends():
    even = {"max_over_mean": 1, "cv": 0, "gini": 0, "entropy": np.log(8), "entropy_normalised": 1, "dead": 0}
    assert load_imbalance([7] * 8) == pytest.approx(even)
    one = load_imbalance([0, 0, 5, 0])
    assert (one["max_over_mean"], one["gini"], one["dead"]) == (4, 0.75, 3)
    assert one["entropy"] == 0
    assert load_imbalance([0, 0]) == {**dict.fromkeys(even, 0), "dead": 2}
    assert load_imbalance([3])["entropy_normalised"] == 0


@quick
@given(hnp.arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 50)))
def test_load_imbalance_agrees_with_definitions(counts):
    measures = load_imbalance(counts)
    n, mean = len(counts), counts.mean()
    if mean > 0:
        differences = np.abs(counts[:, None] - counts[None, :]).sum()
        assert measures["gini"] == pytest.approx(differences / (2 * n * n * mean))
        assert 1 <= measures["max_over_mean"] <= n + 1e-9
        assert 0 <= measures["entropy_normalised"] <= 1 + 1e-12
    shuffled = load_imbalance(np.random.default_rng(0).permutation(counts))
    assert shuffled == pytest.approx(measures)
    stacked = load_imbalance(np.stack([counts, counts]))
    assert stacked["gini"] == pytest.approx([measures["gini"]] * 2)


def test_mutual_information_of_hand_examples():
    assert mutual_information([[30, 10], [10, 30]]) == pytest.approx(0.130812, abs=1e-6)
    assert mutual_information(np.eye(5)) == pytest.approx(np.log(5))
    assert mutual_information(np.outer([1, 2, 3], [4, 5])) == pytest.approx(0, abs=1e-14)
    assert mutual_information(np.zeros((2, 3))) == 0
    assert mutual_information([[[30, 10], [10, 30]], [[1, 1], [1, 1]]]).shape == (2,)


@quick
@given(hnp.arrays(np.float64, (3, 4), elements=st.floats(0, 1e6)))
def test_mutual_information_is_bounded_symmetric_and_scale_free(joint):
    value = mutual_information(joint)
    assert 0 <= value <= np.log(3) + 1e-12
    assert value == pytest.approx(mutual_information(joint.T), abs=1e-12)
    assert value == pytest.approx(mutual_information(joint * 7), abs=1e-9)


@pytest.mark.parametrize("function", [load_imbalance, mutual_information])
@pytest.mark.parametrize(
    ("value", "says"), [(np.nan, r"\[1, 0\] is NaN"), (-1.0, r"\[1, 0\]"), (np.inf, "finite")]
)
def test_amounts_that_are_no_amounts_are_refused(function, value, says):
    amounts = np.ones((2, 2))
    amounts[1, 0] = value
    with pytest.raises(ValueError, match=says):
        function(amounts)

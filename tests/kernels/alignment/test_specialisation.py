"""Specialised experts, their kinds, and the order in which a matrix of languages is drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moescope.kernels.alignment import (
    KINDS,
    clustering_order,
    expert_kinds,
    selection_frequency,
    specialised_experts,
)


def test_frequency_is_a_mean_over_sequences_not_over_tokens():
    counts = np.array([[10, 0, 10], [0, 90, 90]])
    np.testing.assert_allclose(selection_frequency(counts, [10, 90]), [0.5, 0.5, 1.0])
    by_layer = selection_frequency(np.stack([counts, counts], 1), np.array([[10, 20], [90, 180]]))
    np.testing.assert_allclose(by_layer, [[0.5, 0.5, 1.0], [0.25, 0.25, 0.5]])


def test_specialised_means_above_tau_not_at_it():
    target, base = [0.75, 0.5, 0.25, 0.9], [0.25, 0.25, 0.5, 0.1]
    assert specialised_experts(target, base, 0.25).tolist() == [True, False, False, True]
    languages = np.array([target, base])
    assert specialised_experts(languages, base, 0.25).tolist() == [[True, False, False, True], [False] * 4]


def test_kinds_of_experts():
    german, thai = [1, 1, 0, 0, 1], [0, 1, 0, 0, 1]
    kinds = expert_kinds({"de": german, "th": thai}, task=[0, 0, 1, 0, 1])
    assert [KINDS[kind] for kind in kinds] == ["language-specific", "multilingual", "task", "none", "shared"]
    assert expert_kinds({"de": german}).tolist() == [1, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: selection_frequency([[5, 1]], [4]), "more tokens than its sequence has"),
        (lambda: selection_frequency(np.zeros((0, 3)), []), r"\(S, ..., E\)"),
        (lambda: selection_frequency([[1, 1]], [1, 2]), r"tokens \(S,\)"),
        (lambda: specialised_experts([0.5, 12], [0.5, 0.5], 0.3), "share of tokens"),
        (lambda: specialised_experts([0.5, np.nan], [0.5, 0.5], 0.3), r"freq_target\[1\] is NaN"),
        (lambda: specialised_experts([0.5], [0.5, 0.5], 0.3), "freq_base"),
        (lambda: specialised_experts([0.5], [0.5], float("nan")), "tau is NaN"),
        (lambda: expert_kinds({}), "at least one language"),
        (lambda: expert_kinds({"de": [1, 0]}, [1]), "differ in shape"),
        (lambda: clustering_order(np.ones((2, 3))), "square"),
        (lambda: clustering_order([[0, 1], [2, 0]]), "symmetric"),
    ],
)
def test_wrong_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_blocks_of_near_languages_end_up_side_by_side():
    family = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 2])
    rng = np.random.default_rng(0)
    distance = np.where(family[:, None] == family, 0.1, 0.8) + rng.random((10, 10)) * 0.05
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0)
    in_order = family[clustering_order(distance)]
    assert np.count_nonzero(np.diff(in_order)) == 2


def test_points_on_a_line_come_out_in_line():
    place = np.array([3.0, 0.0, 10.0, 1.0, 7.5, 2.1])
    in_order = place[clustering_order(np.abs(place[:, None] - place))]
    assert in_order.tolist() in (sorted(place), sorted(place, reverse=True))


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(np.float64, st.integers(0, 8).map(lambda n: (n, n)), elements=st.sampled_from([0, 1, np.nan]))
)
def test_an_order_is_a_permutation_whatever_the_distances(distance):
    distance = np.fmax(distance, distance.T)
    assert sorted(clustering_order(distance)) == list(range(len(distance)))

"""Spread, vocabulary, paths, flows and the map: worked examples, and counts by hand."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.kernels.counting import transitions
from moescope.kernels.structure import (
    path_counts,
    principal_axes,
    rare_token_baseline,
    specialisation_spread,
    strongest_flows,
    vocabulary_shares,
)

quick = settings(deadline=None, max_examples=60)


def test_the_worked_example_of_the_spread():
    rates = np.array([[0.5], [0.3], [0.1]])
    assert specialisation_spread(rates) == pytest.approx([0.666667], abs=1e-6)
    assert specialisation_spread(rates, ddof=0) == pytest.approx([0.544331], abs=1e-6)


def test_the_spread_leaves_out_domains_that_do_not_use_an_expert():
    rates = np.array([[0.5, 0.2, 0.0, 0.3], [0.3, 0.2, 0.0, 0.0], [0.1, 0.2, 1e-6, 1e-5]])
    assert specialisation_spread(rates) == pytest.approx([0.666667, 0, 0, 0], abs=1e-6)
    assert specialisation_spread(rates, floor=0)[3] > 0


@quick
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_vocabulary_shares_equal_counts_by_hand(seed, least):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(-1, 6, 30)
    ids = np.where(rng.random((30, 2)) < 0.2, -1, np.argsort(rng.random((30, 5)), 1)[:, :2])
    found = vocabulary_shares(tokens, ids, 5, least)
    occurrences = Counter(t for t in tokens.tolist() if t >= 0)
    assert found.token_ids.tolist() == sorted(t for t, n in occurrences.items() if n >= least)
    for token, shares, n in zip(found.token_ids.tolist(), found.shares, found.occurrences, strict=True):
        chosen = Counter(
            e for t, row in zip(tokens.tolist(), ids.tolist(), strict=True) for e in row if t == token
        )
        assert n == occurrences[token]
        assert shares.tolist() == [chosen[e] / n for e in range(5)]


def test_the_worked_example_of_rare_tokens():
    luck = rare_token_baseline(2, [0.25] * 4)
    assert luck.mean == pytest.approx(0.563705, abs=1e-6)
    assert luck.high == 1
    assert rare_token_baseline(2, [0.25] * 4, draws=100, seed=1) == luck


def test_luck_of_rare_tokens_equals_a_simulation():
    rng = np.random.default_rng(0)
    shares = np.array([0.6, 0.3, 0.05, 0.05, 0.0, 1 / 3])
    found = rare_token_baseline([1, 7, 40], shares)
    for n, mean, high in zip((1, 7, 40), found.mean, found.high, strict=True):
        largest = rng.binomial(n, shares, (20_000, len(shares))).max(1) / n
        assert mean == pytest.approx(largest.mean(), abs=5 * largest.std() / np.sqrt(20_000))
        assert np.mean(largest < high) < 0.95 + 0.01
        assert np.mean(largest <= high) > 0.95 - 0.01
    assert rare_token_baseline(5000, shares).mean == pytest.approx(0.6, abs=0.01)
    assert rare_token_baseline(3, [1.0, 0.2]) == (1, 1)


def test_the_worked_example_of_paths():
    found = path_counts([[0, 0, 1, 1, 0, 0], [2, 2, 2, 3, 2, 3]])
    assert found.paths[0].tolist() == [0, 2]
    assert found.counts[0] == 3
    assert found.expected[0] == pytest.approx(2.6667, abs=1e-4)


@quick
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 25))
def test_paths_equal_counts_by_hand(seed, layers, tokens):
    ids = np.random.default_rng(seed).integers(-1, 3, (layers, tokens))
    whole = [tuple(path) for path in ids.T.tolist() if min(path) >= 0]
    found = path_counts(ids)
    expected = Counter(whole)
    assert dict(zip(map(tuple, found.paths.tolist()), found.counts.tolist(), strict=True)) == dict(expected)
    assert (np.diff(found.counts) <= 0).all()
    for path, mean in zip(found.paths.tolist(), found.expected, strict=True):
        shares = [np.mean([other[i] == path[i] for other in whole]) for i in range(layers)]
        assert mean == pytest.approx(len(whole) * np.prod(shares))


def test_long_paths_do_not_run_over():
    ids = np.tile(np.arange(4), 25)[:, None] % np.array([7, 9, 11])
    found = path_counts(np.broadcast_to(ids * 1000, (100, 3)))
    assert found.counts.sum() == 3


@quick
@given(st.integers(0, 10_000), st.integers(0, 12))
def test_flows_and_the_rest_are_all(seed, n):
    rng = np.random.default_rng(seed)
    ids_a, ids_b = rng.integers(0, 4, (9, 2)), rng.integers(0, 3, (9, 1))
    matrix = transitions(ids_a, ids_b, 4, 3)
    assert matrix.sum(1).tolist() == np.bincount(ids_a.ravel(), minlength=4).tolist()
    flows, rest = strongest_flows(matrix, n)
    assert flows[:, 2].sum() + rest == matrix.sum()
    assert flows[:, 2].tolist() == sorted(matrix[matrix > 0].tolist(), reverse=True)[:n]
    assert (matrix[flows[:, 0], flows[:, 1]] == flows[:, 2]).all()
    halves = strongest_flows(matrix / 2, n)
    assert (halves.flows[:, 2] * 2 == flows[:, 2]).all()


def test_the_map_keeps_distances_that_lie_on_two_axes():
    rng = np.random.default_rng(4)
    flat = rng.normal(size=(30, 2)) * [3, 1]
    turned = flat @ np.linalg.qr(rng.normal(size=(6, 6)))[0][:2] + 5
    found = principal_axes(turned)
    distances = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (flat, found.places)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    assert found.explained.sum() == pytest.approx(1)
    again = principal_axes(turned[::-1])
    np.testing.assert_allclose(again.places[::-1], found.places, atol=1e-9)
    assert (principal_axes(np.ones((3, 2))).places == 0).all()
    assert principal_axes(np.zeros((0, 4))).places.shape == (0, 2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: specialisation_spread([0.1]), r"\(G, E\)"),
        (lambda: specialisation_spread([[-0.1]]), "not negative"),
        (lambda: specialisation_spread([[0.1]], ddof=2), "ddof"),
        (lambda: vocabulary_shares([1], [[3]], 3), r"ids\[0, 0\] is 3"),
        (lambda: vocabulary_shares([1, 2], [[1]], 3), r"shape \(1,\)"),
        (lambda: rare_token_baseline(0, [0.5]), "at least 1"),
        (lambda: rare_token_baseline(2, [1.5]), "from 0 to 1"),
        (lambda: strongest_flows([1, 2], 1), r"\(A, B\)"),
        (lambda: path_counts([[0.5]]), "integers"),
    ],
)
def test_wrong_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()

"""agreement: the hand example, naive loops over sets, limits, and what must be refused."""

from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import rankdata

from moescope.kernels import compiled
from moescope.kernels.agreement import (
    compounding,
    exchange,
    first_flip_layer,
    first_flipped,
    flipped,
    gate_distance,
    load_correlation,
    overlap_chance,
    persistence,
    selection_margin,
    set_counts,
    set_overlap,
)
from moescope.kernels.agreement.loads import SMALL, ranks_of_whole

E = 9
A = np.array([[0, 1], [2, 3], [0, 1]])
B = np.array([[1, 0], [2, 1], [2, 3]])


def random_side(rng, tokens, slots, *, repeats=False):
    """(T, K) ids with empty slots anywhere, and weights whose empty slots hold a NaN."""
    if repeats:
        ids = rng.integers(-1, E, (tokens, slots))
    else:
        ids = np.argsort(rng.random((tokens, E)), axis=1)[:, :slots]
        ids[rng.random(ids.shape) < 0.3] = -1
    weights = rng.random(ids.shape).astype(np.float32)
    weights[ids < 0] = np.nan
    return ids.astype(rng.choice([np.int8, np.int32, np.int64])), weights


SIDES = [
    (*random_side(np.random.default_rng(seed), 60, k_a, repeats=seed % 2 == 1),
     *random_side(np.random.default_rng(seed + 99), 60, k_b, repeats=seed % 3 == 1))
    for seed, (k_a, k_b) in enumerate([(1, 1), (2, 2), (3, 5), (5, 3), (4, 4), (8, 1), (6, 9)])
]  # fmt: skip


def sets_of(ids):
    return [{int(e) for e in row if e >= 0} for row in ids]


def mix_of(ids, weights):
    """Gate weights by expert, as exact fractions that sum to 1."""
    mixes = []
    for row, values in zip(ids, weights, strict=True):
        mix = {}
        for expert, value in zip(row, values, strict=True):
            if expert >= 0:
                mix[int(expert)] = mix.get(int(expert), 0) + Fraction(float(value))
        total = sum(mix.values())
        mixes.append({e: g / total for e, g in mix.items()} if total else {})
    return mixes


def test_the_hand_example():
    assert flipped(A, B).tolist() == [False, True, True]
    assert set_overlap(A, B).tolist() == [1, 0.5, 0]
    assert overlap_chance(4, 2, 2) == 0.5
    matrix = exchange(A, B, 4)
    assert matrix[3].tolist() == [0, 1, 0, 0]
    assert matrix[:2].tolist() == [[0, 0, 0.5, 0.5]] * 2
    assert matrix[2].tolist() == [0, 0, 0, 0]
    assert first_flipped(A, B).tolist() == [True, False, True]


@pytest.mark.parametrize("side", SIDES)
def test_sets_equal_a_loop(side):
    ids_a, _, ids_b, _ = side
    pairs = list(zip(sets_of(ids_a), sets_of(ids_b), strict=True))
    counts = set_counts(ids_a, ids_b)
    assert counts.shared_T.tolist() == [len(a & b) for a, b in pairs]
    assert counts.size_a_T.tolist() == [len(a) for a, _ in pairs]
    assert counts.size_b_T.tolist() == [len(b) for _, b in pairs]
    assert flipped(ids_a, ids_b).tolist() == [a != b for a, b in pairs]
    overlaps = [len(a & b) / max(len(a), len(b)) if a or b else 1 for a, b in pairs]
    np.testing.assert_allclose(set_overlap(ids_a, ids_b), overlaps)

    def first(row):
        return next((int(e) for e in row if e >= 0), None)

    wanted = [first(a) != first(b) for a, b in zip(ids_a, ids_b, strict=True)]
    assert first_flipped(ids_a, ids_b).tolist() == wanted


@pytest.mark.parametrize("side", SIDES)
def test_the_distance_of_gates_equals_exact_fractions(side):
    ids_a, weights_a, ids_b, weights_b = side
    wanted = []
    for a, b in zip(mix_of(ids_a, weights_a), mix_of(ids_b, weights_b), strict=True):
        if bool(a) != bool(b):
            wanted.append(1.0)
        else:
            wanted.append(float(sum(abs(a.get(e, 0) - b.get(e, 0)) for e in range(E)) / 2))
    found = gate_distance(ids_a, weights_a, ids_b, weights_b)
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert (gate_distance(ids_a, weights_a, ids_a, weights_a) == 0).all()


@pytest.mark.parametrize("side", SIDES)
def test_the_exchange_equals_a_loop_and_its_rows_count_what_was_left(side):
    ids_a, _, ids_b, _ = side
    wanted, left = np.zeros((E, E)), np.zeros(E)
    for a, b in zip(sets_of(ids_a), sets_of(ids_b), strict=True):
        for out in a - b:
            left[out] += bool(b - a)
            for new in b - a:
                wanted[out, new] += 1 / len(b - a)
    found = exchange(ids_a, ids_b, E)
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    np.testing.assert_allclose(found.sum(1), left, atol=1e-12)


def test_chance_is_what_independent_even_choices_give():
    rng = np.random.default_rng(0)
    draws = 20_000
    ids_a = np.argsort(rng.random((draws, 10)), axis=1)[:, :4]
    ids_b = np.argsort(rng.random((draws, 10)), axis=1)[:, :3]
    overlaps = set_overlap(ids_a, ids_b)
    assert abs(overlaps.mean() - overlap_chance(10, 4, 3)) < 5 * overlaps.std() / np.sqrt(draws)
    assert overlap_chance(10, 0, 0) == 1
    assert overlap_chance(8, 8, 8) == 1


def test_margins_equal_sorting():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(200, 12)).astype(np.float32)
    ordered = -np.sort(-scores.astype(np.float64), axis=1)
    for k in (1, 4, 11):
        np.testing.assert_array_equal(selection_margin(scores, k), ordered[:, k - 1] - ordered[:, k])
    scores[3, 5] = np.nan
    assert np.flatnonzero(np.isnan(selection_margin(scores, 2))).tolist() == [3]
    with pytest.raises(ValueError, match="no expert is left out"):
        selection_margin(scores, 12)


def test_layers_by_hand_and_by_a_loop():
    flips = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 1], [0, 0, 1]], bool)
    assert first_flip_layer(flips).tolist() == [1, -1, 0, 2]
    after, none = compounding(flips)
    np.testing.assert_allclose(after, [np.nan, 0, 1])
    np.testing.assert_allclose(none, [1 / 4, 1 / 3, 1 / 2])
    np.testing.assert_allclose(persistence(flips), [np.nan, 0, 1])
    flips = np.random.default_rng(2).random((300, 7)) < 0.2
    after, none = compounding(flips)
    last = persistence(flips)
    for layer in range(1, 7):
        earlier = flips[:, :layer].any(1)
        assert after[layer] == pytest.approx(flips[earlier, layer].mean())
        assert none[layer] == pytest.approx(flips[~earlier, layer].mean())
        assert last[layer] == pytest.approx(flips[flips[:, layer - 1], layer].mean())
    assert first_flip_layer(np.zeros((2, 0), bool)).tolist() == [-1, -1]


def test_no_tokens_and_large_ids():
    none = np.zeros((0, 2), np.int16)
    assert flipped(none, none).shape == set_overlap(none, none).shape == (0,)
    assert gate_distance(none, none * 1.0, none, none * 1.0).shape == (0,)
    assert exchange(none, none, 3).sum() == 0
    high = np.array([[2**31 - 1, 300, 7]])
    assert set_overlap(high, np.array([[7, 2**31 - 1, 300 - 256]])).tolist() == [2 / 3]
    unsigned = np.array([[200, 3]], np.uint8)
    assert flipped(unsigned, np.array([[3, 200]])).tolist() == [False]


def test_chunks_do_not_show():
    rng = np.random.default_rng(3)
    ids_a, weights_a = random_side(rng, 50_000, 4)
    ids_b, weights_b = random_side(rng, 50_000, 4)
    halves = [slice(0, 12_345), slice(12_345, None)]
    for function, args in (
        (set_overlap, (ids_a, ids_b)),
        (gate_distance, (ids_a, weights_a, ids_b, weights_b)),
    ):
        whole = function(*args)
        pieces = [function(*(arg[half] for arg in args)) for half in halves]
        np.testing.assert_array_equal(whole, np.concatenate(pieces))
    matrices = [exchange(ids_a[half], ids_b[half], E) for half in halves]
    np.testing.assert_allclose(exchange(ids_a, ids_b, E), sum(matrices))


@pytest.mark.parametrize("side", SIDES)
def test_the_compiled_twins_agree(side, monkeypatch):
    pytest.importorskip("numba")
    ids_a, weights_a, ids_b, weights_b = side
    monkeypatch.setattr(compiled, "WORTH_COMPILING", float("inf"))
    plain = [*set_counts(ids_a, ids_b), gate_distance(ids_a, weights_a, ids_b, weights_b)]
    monkeypatch.setattr(compiled, "WORTH_COMPILING", 0.0)
    fast = [*set_counts(ids_a, ids_b), gate_distance(ids_a, weights_a, ids_b, weights_b)]
    for one, other in zip(plain, fast, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    assert (gate_distance(ids_b, weights_b, ids_b, weights_b) == 0).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: flipped(A, B[:2]), "the same tokens"),
        (lambda: flipped(A * 1.0, B), "integers"),
        (lambda: set_overlap(A - 2, B), r"ids_a\[0, 0\] is -2"),
        (lambda: exchange(A, B, 3), r"ids_a\[1, 1\] is 3"),
        (lambda: overlap_chance(4, 5, 1), "k_a must lie in 0 .. 4"),
        (lambda: gate_distance(A, A * np.nan, B, B), r"weights_a\[0, 0\] is nan"),
        (lambda: gate_distance(A, A, B, B - 2.0), r"weights_b\[0, 0\] is -1"),
        (lambda: first_flip_layer(A), "boolean"),
        (lambda: compounding(np.zeros(3, bool)), "boolean"),
    ],
)
def test_refusals_say_what_is_wrong(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize("experts", [1, 2, 5, 64, 200])
@pytest.mark.parametrize("most", [1, 9, SMALL - 1])
def test_ranks_of_whole_numbers_are_scipys(experts, most):
    """Most 1 ties nearly all; the largest leaves no room beside the expert in 32 bits."""
    values = np.random.default_rng(experts).integers(0, most + 1, (30, experts)).astype(np.float32)
    values[0] = most
    assert np.array_equal(ranks_of_whole(values), rankdata(values, axis=1))


def test_load_correlation_resamples_whole_and_other_numbers_alike():
    """Halved counts have the same ranks, and are no whole numbers."""
    counts = np.random.default_rng(0).integers(0, 9, (2, 12, 7)) * 2 + 1
    whole, halves = (load_correlation(*(counts / by), resamples=50) for by in (1, 2))
    assert (whole.point, whole.low, whole.high) == (halves.point, halves.low, halves.high)
    assert whole.low < whole.point < whole.high

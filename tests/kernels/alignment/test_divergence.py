"""entropy, js_divergence, routing_divergence: hand examples, 60-digit references, bounds and invariances."""

from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.kernels.alignment import (
    divergence,
    divergence_and_entropy,
    divergence_matrix,
    entropy,
    js_divergence,
    pairwise_divergence,
    routing_divergence,
)

quick = settings(deadline=None, max_examples=60)
getcontext().prec = 60


@st.composite
def distributions(draw, experts=None):
    """Anything from one-hot over nearly equal to uniform."""
    size = draw(st.integers(1, 12)) if experts is None else experts
    kind = draw(st.sampled_from(["any", "sparse", "nearly uniform"]))
    raw = np.array(draw(st.lists(st.floats(0, 1), min_size=size, max_size=size)))
    if kind == "nearly uniform":
        raw = 1 + draw(st.sampled_from([0.0, 1e-12, 1e-7, 1e-3])) * raw
    if kind == "sparse":
        raw = np.where(raw > 0.6, raw, 0)
    if raw.sum() < 1e-3:
        raw[draw(st.integers(0, size - 1))] = 1
    return raw / raw.sum()


@st.composite
def pairs_of_distributions(draw):
    p = draw(distributions())
    if draw(st.booleans()):
        return p, draw(distributions(len(p)))
    q = p * (1 + draw(st.sampled_from([0.0, 1e-14, 1e-8, 1e-3])) * np.arange(len(p)))
    return p, q / q.sum()


def exact(p, q):
    """The definition, in 60 digits, of the float64 distributions scaled to sum to 1."""
    p, q = ([Decimal(float(x)) for x in row] for row in (p, q))
    p, q = ([x / sum(row) for x in row] for row in (p, q))
    if p == q:
        return Decimal(0), Decimal(0)

    def h(row):
        return -sum((x * x.ln() for x in row if x > 0), Decimal(0))

    js = h([(x + y) / 2 for x, y in zip(p, q, strict=True)]) - (h(p) + h(q)) / 2
    return js, js / (Decimal(len(p)).ln() - (h(p) + h(q)) / 2)


@quick
@given(pairs_of_distributions())
def test_agrees_with_the_definition_to_many_digits(pair):
    p, q = pair
    if (p == q).all():
        assert routing_divergence(p, q) == js_divergence(p, q) == 0
        return
    js, normalised = exact(p, q)
    # Below 1e-12 the input itself, rounded to float64, no longer says what the divergence is.
    assert float(js_divergence(p, q)) == pytest.approx(float(js), rel=1e-9, abs=1e-24)
    if js > 1e-24 and np.abs((p + q) * len(p) - 2).max() > 1e-9:
        assert float(routing_divergence(p, q)) == pytest.approx(float(normalised), rel=1e-6, abs=1e-12)


@quick
@given(pairs_of_distributions(), st.randoms(use_true_random=False))
def test_bounded_symmetric_and_blind_to_the_order_of_experts(pair, random):
    p, q = pair
    d = routing_divergence(p, q)
    assert 0 <= d <= 1
    assert 0 <= js_divergence(p, q) <= np.log(2)
    assert 0 <= entropy(p) <= np.log(len(p))
    assert d == routing_divergence(q, p)
    assert js_divergence(p, q) == js_divergence(q, p)
    if max(np.abs(p * len(p) - 1).max(), np.abs(q * len(p) - 1).max()) < 1e-9:
        return  # as good as uniform: the quotient of two roundings depends on the order of summing
    order = list(range(len(p)))
    random.shuffle(order)
    assert routing_divergence(p[order], q[order]) == pytest.approx(d, rel=1e-6, abs=1e-12)


def test_hand_examples():
    assert routing_divergence([0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0]) == pytest.approx(0.5, abs=1e-15)
    top8, other8 = np.zeros(128), np.zeros(128)
    top8[:8] = other8[8:16] = 1 / 8
    assert routing_divergence(top8, other8) == pytest.approx(0.25, abs=1e-15)
    assert js_divergence(top8, other8) == pytest.approx(np.log(2))
    assert entropy(top8) == pytest.approx(np.log(8))
    assert entropy([1.0, 0.0]) == 0
    assert not np.signbit(entropy([1.0, 0.0]))


def test_the_ends_of_the_scale_are_exact():
    assert routing_divergence([0, 1], [1, 0]) == 1
    assert routing_divergence([0, 0, 1], [0, 0, 1]) == 0
    assert routing_divergence([0.25] * 4, [0.25] * 4) == 0
    assert routing_divergence([1.0], [1.0]) == 0
    rounded = np.full(7, 1 / 7, np.float32)
    assert routing_divergence(rounded, rounded * np.float32(1 + 1e-7)) == 0
    assert routing_divergence(np.nextafter(rounded, 1) / 1, rounded.astype(float)) == 0
    p = np.random.default_rng(0).dirichlet(np.ones(64), 100)
    assert (routing_divergence(p, p) == 0).all()


def test_shapes_broadcast_whatever_the_piece(monkeypatch):
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5), (7, 3, 4)), rng.dirichlet(np.ones(5), (3, 1))
    expected = routing_divergence(p, q)
    assert expected.shape == (7, 3, 4)
    for index in np.ndindex(7, 3, 4):
        assert expected[index] == pytest.approx(routing_divergence(p[index], q[index[1], 0]), rel=1e-12)
    for piece in (1, 11, 25, 60):
        monkeypatch.setattr(divergence, "_PIECE", piece)
        np.testing.assert_allclose(routing_divergence(p, q), expected, rtol=1e-12)
    turned = np.moveaxis(p, -1, 1)
    np.testing.assert_allclose(entropy(turned, axis=1), entropy(p))
    np.testing.assert_array_equal(
        routing_divergence(turned, turned[::-1], axis=1), routing_divergence(p, p[::-1])
    )
    assert routing_divergence(np.ones((0, 4)), np.ones((0, 4))).shape == (0,)
    assert isinstance(float(routing_divergence([1, 0], [0, 1])), float)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_short_floats_are_computed_in_float64(dtype):
    rng = np.random.default_rng(0)
    p, q = (torch.tensor(rng.dirichlet(np.ones(16), 50)).to(dtype) for _ in range(2))
    wide_p, wide_q = p.double().numpy(), q.double().numpy()
    wide_p, wide_q = wide_p / wide_p.sum(1, keepdims=True), wide_q / wide_q.sum(1, keepdims=True)
    d = routing_divergence(p, q)
    assert d.dtype == np.float64
    np.testing.assert_allclose(d, routing_divergence(wide_p, wide_q), rtol=1e-12)
    assert (routing_divergence(p.numpy() if dtype != torch.bfloat16 else p, p) == 0).all()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ([0.5, 0.6, 0.0], r"q\[1, 2\] sums to 1.1"),
        ([0.5, 0.5, -0.0001], r"q\[1, 2\] is negative at expert 2"),
        ([0.5, np.nan, 0.5], r"q\[1, 2\] is NaN at expert 1"),
        ([np.inf, 0.0, 0.0], r"q\[1, 2\] sums to inf"),
        ([0.0, 0.0, 0.0], r"q\[1, 2\] sums to 0"),
        ([0.5, 0.5, 0.00015], r"sums to 1.00015"),
    ],
)
def test_what_is_no_distribution_is_refused_with_its_index(bad, says):
    good = np.full((2, 3, 3), 1 / 3)
    q = good.copy()
    q[1, 2] = bad
    with pytest.raises(ValueError, match=says):
        routing_divergence(good, q)
    with pytest.raises(ValueError, match=says.replace("q", "p")):
        entropy(q)


def test_a_sum_within_the_tolerance_is_scaled_to_one():
    p = np.array([0.5, 0.5, 0, 0]) * 1.00009
    assert routing_divergence(p, [0.5, 0, 0.5, 0]) == pytest.approx(0.5, abs=1e-12)
    assert entropy(p) == pytest.approx(np.log(2), abs=1e-12)


@pytest.mark.parametrize(
    ("p", "q", "says"),
    [
        ([0.5, 0.5], [1.0], "as many experts"),
        (1.0, 1.0, r"\(..., E\)"),
        ([True, False], [True, False], "probabilities"),
        (np.ones((2, 0)), np.ones((2, 0)), "probabilities"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(p, q, says):
    with pytest.raises(ValueError, match=says):
        routing_divergence(p, q)


def test_matrix_is_the_mean_over_shared_units():
    rng = np.random.default_rng(3)
    q = rng.dirichlet(np.ones(6), (10, 4))
    present = np.ones((10, 4), bool)
    present[:4, 1] = present[4:, 2] = False
    q[~present] = np.nan
    matrix, units = divergence_matrix(q, present)
    assert units.tolist() == [[10, 6, 4, 10], [6, 6, 0, 6], [4, 0, 4, 4], [10, 6, 4, 10]]
    assert matrix[0, 1] == matrix[1, 0]
    assert matrix[0, 1] == pytest.approx(
        np.mean([routing_divergence(q[u, 0], q[u, 1]) for u in range(4, 10)])
    )
    assert np.isnan(matrix[1, 2])
    assert (matrix.diagonal() == 0).all()
    with pytest.raises(ValueError, match="NaN"):
        divergence_matrix(q)
    with pytest.raises(ValueError, match="present"):
        divergence_matrix(q, present.T)


@quick
@given(st.data(), st.integers(1, 7), st.integers(1, 4))
def test_pairs_of_units_are_what_each_pair_alone_gives(data, experts, units):
    rows = data.draw(st.lists(distributions(experts), min_size=3 * units, max_size=3 * units))
    q = np.array(rows).reshape(units, 3, experts)
    if data.draw(st.booleans()):
        q[:, 1] = q[:, 0] * (1 + 1e-9 * np.arange(experts))
        q[:, 1] /= q[:, 1].sum(-1, keepdims=True)
    one, other = [0, 0, 2, 1], [1, 2, 1, 1]
    np.testing.assert_allclose(
        pairwise_divergence(q, one, other), routing_divergence(q[:, one], q[:, other]), rtol=1e-9, atol=1e-15
    )


def test_pairs_without_a_partner_are_zero_and_never_looked_at():
    q = np.random.default_rng(0).dirichlet(np.ones(5), (4000, 3)).astype(np.float32)
    present = np.ones((4000, 3), bool)
    present[7, 1] = present[3999, 0] = False
    q[~present] = np.nan
    found = pairwise_divergence(q, [0, 1], [1, 2], present)
    assert (found == 0).sum(0).tolist() == [2, 1]
    assert found[8, 1] == pytest.approx(routing_divergence(q[8, 1], q[8, 2]))
    for wrong, said in (
        (q, r"in the units from 0: q\[7, 1\] is NaN"),
        (q[0], "shape"),
        (q[:, :2], "present"),
    ):
        with pytest.raises(ValueError, match=said):
            pairwise_divergence(wrong, [0], [1], present if said == "present" else None)
    with pytest.raises(ValueError, match="both must be"):
        pairwise_divergence(q, [0], [1, 2], present)


def test_sums_over_tokens_give_what_their_distributions_give():
    rng = np.random.default_rng(4)
    tokens = rng.integers(1, 900, (7, 4, 1))
    q = rng.dirichlet(np.full(12, 0.2), (7, 4))
    one, other = np.triu_indices(4, 1)
    divergence, entropies = divergence_and_entropy(q * tokens, one, other)
    np.testing.assert_allclose(divergence, pairwise_divergence(q, one, other), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(entropies, entropy(q), rtol=1e-12)
    present = np.ones((7, 4), bool)
    present[2, 1] = False
    sums = np.where(present[..., None], q * tokens, 0)
    alone, _ = divergence_and_entropy(sums, one, other, present)
    assert (alone[2, (one == 1) | (other == 1)] == 0).all()
    for bad in (0.0, np.nan, np.inf, -1.0):
        sums[2, 1] = bad
        with pytest.raises(ValueError, match="negative, NaN or infinite"):
            divergence_and_entropy(sums, one, other)

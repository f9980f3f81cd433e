"""How long experts stay: by hand, by brute force, and against independent tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.kernels.consistency.half_life import expert_survival, half_life, half_life_chance


def brute(sequences, horizon):
    survived, at_risk = np.zeros(horizon + 1, int), np.zeros(horizon + 1, int)
    for sequence in sequences:
        for at, chosen in enumerate(sequence):
            for expert in chosen:
                if expert < 0:
                    continue
                for d in range(horizon + 1):
                    if at + d >= len(sequence):
                        break
                    at_risk[d] += 1
                    survived[d] += all(expert in later for later in sequence[at : at + d + 1])
    return survived, at_risk


def test_the_hand_example():
    # Expert 0: three tokens in a row, then gone; expert 1 fills the rest.
    survived, at_risk = expert_survival([[0], [0], [0], [1]], 2, [4], horizon=3)
    assert survived.tolist() == [4, 2, 1, 0]
    assert at_risk.tolist() == [4, 3, 2, 1]
    # S = 1, 2/3, 1/2, 0: one half is reached at exactly two tokens.
    assert half_life(survived, at_risk) == pytest.approx(2.0)


@given(
    st.lists(st.lists(st.permutations(range(4)), max_size=8), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_equals_brute_force(sequences, horizon):
    sequences = [[[*row[:2], -1] for row in sequence] for sequence in sequences]
    flat = np.array([row for sequence in sequences for row in sequence], int).reshape(-1, 3)
    found = expert_survival(flat, 4, [len(sequence) for sequence in sequences], horizon)
    survived, at_risk = brute(sequences, horizon)
    assert found.survived.tolist() == survived.tolist()
    assert found.at_risk.tolist() == at_risk.tolist()


def test_sequences_do_not_touch():
    joined = expert_survival([[0], [0]], 1, [1, 1], horizon=1)
    assert joined.at_risk.tolist() == [2, 0]


def test_independent_tokens_are_at_chance():
    rng = np.random.default_rng(0)
    shares = np.array([0.6, 0.25, 0.1, 0.05])
    ids = rng.choice(4, size=(200_000, 1), p=shares)
    survived, at_risk = expert_survival(ids, 4, [len(ids)], horizon=8)
    expected, kept = half_life_chance(shares, horizon=8)
    # 200,000 draws: the standard error of S(1) is below 0.0012.
    assert survived[1] / at_risk[1] == pytest.approx(kept, abs=0.005)
    assert half_life(survived, at_risk) == pytest.approx(expected, abs=0.05)


def test_even_chance_by_hand():
    # Four even experts, one each: S(d) = 4^-d, so one half lies at (1 - .5) / (1 - .25) = 2/3 of the first token.
    half, kept = half_life_chance([0.25] * 4)
    assert half == pytest.approx(2 / 3)
    assert kept == pytest.approx(0.25)


def test_never_falling_is_infinite_and_no_use_is_nan():
    assert half_life([5, 4, 3], [5, 4, 3]) == np.inf
    assert np.isnan(half_life([0, 0], [0, 0]))


def test_lengths_must_fit():
    with pytest.raises(ValueError, match="2 tokens"):
        expert_survival([[0], [1]], 2, [3])

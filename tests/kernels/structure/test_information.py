"""What labels explain: against sums over all permutations, simulated ones, and cases whose answer is known."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.kernels.counting import mutual_information
from moescope.kernels.statistics.jackknife import jackknife_interval
from moescope.kernels.structure import explained, explained_interval, tag_information
from moescope.kernels.structure._expected import expected_information, expected_informations

quick = settings(deadline=None, max_examples=60)


def information_of(labels, experts):
    joint = np.zeros((max(labels) + 1, max(experts) + 1))
    np.add.at(joint, (np.array(labels), np.array(experts)), 1)
    return float(mutual_information(joint))


@quick
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=6))
def test_expected_information_is_the_mean_over_all_permutations(pairs):
    labels, experts = zip(*pairs, strict=True)
    found = explained(labels, experts)
    everyone = [information_of(order, experts) for order in permutations(labels)]
    assert found.expected == pytest.approx(np.mean(everyone), abs=1e-12)
    assert found.information == pytest.approx(information_of(labels, experts), abs=1e-12)


def test_interpolated_and_serial_parts_agree_with_simulated_permutations():
    rng = np.random.default_rng(1)
    tokens = np.minimum(rng.zipf(1.3, 40_000), 3_000)
    experts = np.minimum(rng.geometric(0.3, 40_000), 8) - 1
    drawn = [information_of(rng.permutation(tokens), experts) for _ in range(20)]
    found = expected_information(np.bincount(tokens), np.bincount(experts))
    error = 4 * np.std(drawn, ddof=1) / np.sqrt(len(drawn))
    assert abs(found - np.mean(drawn)) < error + 2e-3 * found
    assert error < 0.02 * found


def test_tables_side_by_side_are_those_one_by_one():
    rng = np.random.default_rng(9)
    tables = [
        (np.bincount(rng.zipf(1.5, n) % 200), np.bincount(rng.integers(0, experts, n)))
        for n, experts in ((1, 3), (50, 2), (3_000, 30), (20_000, 7))
    ]
    tables.append((np.zeros(3, int), np.zeros(2, int)))
    together = expected_informations(tables)
    assert together == pytest.approx([expected_information(*table) for table in tables], rel=1e-12)
    assert together[0] == together[-1] == 0


def test_a_label_that_decides_the_expert_explains_all_of_it():
    tokens = np.arange(400) % 37
    found = explained(tokens, (tokens * 7) % 5)
    assert found.share == pytest.approx(1)
    assert found.information == pytest.approx(found.entropy)
    assert found.expected > 0


def test_labels_without_a_meaning_explain_nothing():
    rng = np.random.default_rng(2)
    shares = [explained(rng.integers(0, 2_000, 4_000), rng.integers(0, 16, 4_000)).share for _ in range(40)]
    error = np.std(shares, ddof=1) / np.sqrt(len(shares))
    assert abs(np.mean(shares)) < 4 * error
    raw = explained(rng.integers(0, 2_000, 4_000), rng.integers(0, 16, 4_000))
    assert raw.information > 0.3 * raw.entropy  # what is taken off is not small


def test_a_label_of_each_token_alone_explains_nothing():
    assert explained(np.arange(50), np.arange(50) % 4).share == 0


def test_tokens_without_a_label_or_an_expert_are_left_out():
    labels, experts = np.array([0, 0, 1, 1, 1, 2, -1, 0]), np.array([0, 0, 1, 1, 0, 1, 1, -1])
    assert explained(labels, experts) == pytest.approx(explained(labels[:6], experts[:6]))
    assert explained([], []) == (0, 0, 0, 0)
    assert explained([5, 9], [3, 3]).share == 0


def test_the_interval_leaves_out_one_group_at_a_time():
    rng = np.random.default_rng(6)
    labels, groups = rng.integers(0, 5, 300), rng.integers(0, 6, 300)
    experts = (labels + (rng.random(300) < 0.3)) % 4
    found, interval = explained_interval(labels, experts, groups)
    without = [explained(labels[groups != g], experts[groups != g]).share for g in range(6)]
    expected = jackknife_interval(found.share, without)
    assert found == pytest.approx(explained(labels, experts))
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.low < found.share < interval.high


@quick
@given(st.integers(0, 1000))
def test_renaming_labels_and_experts_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    labels, experts = rng.integers(0, 9, 60), rng.integers(0, 4, 60)
    renamed = explained(rng.permutation(9)[labels], rng.permutation(4)[experts])
    assert explained(labels, experts) == pytest.approx(renamed, abs=1e-12)


def test_tags_are_exchanged_between_prompts():
    counts = np.array([[30, 10], [10, 30], [30, 10], [10, 30]])
    found = tag_information(counts, [0, 1, 0, 1], permutations=400)
    assert found.information == pytest.approx(0.130812, abs=1e-6)
    # Of the three ways to pair four prompts one is this, and the two others tell nothing.
    assert found.chance == pytest.approx(0.130812 / 3, abs=0.02)
    assert found.p_value == pytest.approx(1 / 3, abs=0.1)
    assert found.entropy == pytest.approx(np.log(2))
    without = tag_information(counts, [0, 1, 0, -1], permutations=10)
    assert without.information == pytest.approx(mutual_information([[60, 20], [10, 30]]))


def test_tags_without_a_meaning_are_at_chance():
    rng = np.random.default_rng(3)
    counts = rng.multinomial(50, rng.dirichlet(np.ones(8), 30))  # every prompt has its own experts
    p = [tag_information(counts, rng.integers(0, 3, 30), 99, seed).p_value for seed in range(60)]
    assert 0.3 < np.mean(p) < 0.7
    several = tag_information(np.stack([counts, counts[:, ::-1]]), np.arange(30) % 3, 50)
    assert several.information.shape == (2,)
    assert several.information[0] == pytest.approx(several.information[1])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: explained([0.5], [0]), "integers"),
        (lambda: explained([0, 1], [0]), r"shape \(1,\)"),
        (lambda: tag_information([[1, -1]], [0]), "not negative"),
        (lambda: tag_information([[1, 1]], [0, 1]), r"shape \(1,\)"),
        (lambda: tag_information([1, 1], [0, 1]), r"\(\.\.\., P, E\)"),
    ],
)
def test_wrong_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()

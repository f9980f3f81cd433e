"""resonance: against enumeration in exact fractions, and the two questions asked of any finder of
findings."""

from fractions import Fraction
from itertools import combinations, product
from statistics import mean

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moescope.kernels.resonance import prompt_maps, resonance

quick = settings(deadline=None, max_examples=40)
small_maps = hnp.arrays(
    np.int64, st.tuples(st.integers(3, 7), st.just(1), st.just(3)), elements=st.integers(0, 3)
)


def splits(rows, size):
    return combinations(rows, size)


def exact_p(scores_of, labellings, observed):
    """Share of labellings whose |score| is at least the observed, in fractions."""
    reached = [abs(scores_of(labels)) >= abs(scores_of(observed)) for labels in labellings]
    return sum(reached) / len(reached)


@quick
@given(small_maps, st.data())
def test_all_splits_of_a_small_group_equal_enumeration_in_fractions(maps, data):
    prompts = len(maps)
    size = data.draw(st.integers(1, prompts - 1))
    target = set(data.draw(st.permutations(range(prompts)))[:size])
    result = resonance(maps / 7, ["t" if i in target else "r" for i in range(prompts)], "t")
    assert result.exact
    assert "all" in result.method
    for cell in range(3):
        column = [Fraction(int(x)) for x in maps[:, 0, cell]]

        def score(chosen, column=column):
            rest = [x for i, x in enumerate(column) if i not in chosen]
            return mean(column[i] for i in chosen) - mean(rest)

        labellings = [set(s) for s in splits(range(prompts), size)]
        assert result.score[0, cell] == pytest.approx(float(score(target)) / 7, abs=1e-12)
        assert result.p_value[0, cell] == pytest.approx(exact_p(score, labellings, target))


@quick
@given(hnp.arrays(np.int64, st.tuples(st.integers(1, 6), st.just(2), st.just(3)), elements=st.integers(0, 3)))
def test_sign_flips_of_few_pairs_equal_enumeration_in_fractions(maps):
    pairs = len(maps)
    both = np.concatenate([maps[:, 0], maps[:, 1]]).reshape(2 * pairs, 1, 3) / 3
    ids = [f"unit {i}" for i in range(pairs)] * 2
    result = resonance(both, ["t"] * pairs + ["r"] * pairs, "t", pairs=ids)
    assert result.exact
    assert (result.n_pairs, result.relabellings) == (pairs, 2**pairs)
    for cell in range(3):
        difference = [Fraction(int(a[cell] - b[cell])) for a, b in maps]

        def score(signs, difference=difference):
            return mean(s * d for s, d in zip(signs, difference, strict=True))

        flips = list(product([1, -1], repeat=pairs))
        assert result.score[0, cell] == pytest.approx(float(score([1] * pairs)) / 3, abs=1e-12)
        assert result.p_value[0, cell] == pytest.approx(exact_p(score, flips, [1] * pairs))


def test_a_pair_with_several_prompts_on_a_side_permutes_within_the_pair():
    maps = np.array([5.0, 1, 2, 7, 3, 4]).reshape(6, 1)
    labels, pairs = ["t", "r", "r", "t", "r", "r"], [0, 0, 0, 1, 1, 1]
    result = resonance(maps, labels, "t", pairs=pairs)
    scores = [
        mean([a - mean(x for x in first if x is not a), b - mean(x for x in second if x is not b)])
        for first, second in [([5.0, 1.0, 2.0], [7.0, 3.0, 4.0])]
        for a in first
        for b in second
    ]
    assert result.score[0] == scores[0] == 3.5
    assert result.p_value[0] == np.mean([abs(s) >= 3.5 for s in scores])
    assert (result.n_target, result.n_rest, result.relabellings) == (2, 4, 9)


def test_prompts_without_a_partner_take_no_part_and_are_named():
    maps = np.array([1.0, 4.0, 100.0, 0.0, 1.0, -50.0, 9.0]).reshape(7, 1)
    labels = ["t", "t", "t", "r", "r", "r", "other"]
    result = resonance(maps, labels, "t", "r", pairs=["a", "b", None, "a", "b", "c", "a"])
    assert result.score.tolist() == [2.0]
    assert result.unpaired == (2, 5)
    assert (result.n_target, result.n_rest, result.n_pairs) == (2, 2, 2)
    assert "2 prompts without a partner left out" in result.method
    assert (result.target_mean[0], result.rest_mean[0]) == (2.5, 0.5)


@pytest.fixture(scope="module")
def planted():
    """30 + 30 prompts of 20 to 60 tokens, 6 layers of 24 experts, four experts chosen 60 % more often by
    a."""
    rng = np.random.default_rng(11)
    rate = np.full((60, 6, 24), 0.1)
    where = ([1, 2, 2, 5], [3, 0, 17, 23])
    rate[:30, *where] *= 1.6
    tokens = rng.integers(20, 60, 60)
    counts = rng.binomial(tokens[:, None, None], rate)
    return counts, tokens, ["a"] * 30 + ["b"] * 30, where


@quick
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3)), min_size=2, max_size=6), st.integers(0, 99))
def test_whole_texts_change_sides(texts, seed):
    assume(len({side for side, _ in texts}) == 2)
    label = [side for side, size in texts for _ in range(size)]
    text = [number for number, (_, size) in enumerate(texts) for _ in range(size)]
    values = np.random.default_rng(seed).integers(0, 9, len(text)).astype(float)

    def score(chosen):
        inside = np.isin(text, chosen)
        return values[inside].mean() - values[~inside].mean()

    target = [number for number, (side, _) in enumerate(texts) if side]
    every = [abs(score(chosen)) for chosen in combinations(range(len(texts)), len(target))]
    result = resonance(values[:, None], label, True, texts=text, stability=20)
    assert result.score[0] == pytest.approx(score(target))
    assert result.p_value[0] == pytest.approx(np.mean([s >= abs(score(target)) - 1e-9 for s in every]))
    assert 0 <= result.stability[0] <= 1


def test_texts_are_on_one_side_and_no_pairs():
    maps = np.arange(4.0)[:, None]
    with pytest.raises(ValueError, match="both groups"):
        resonance(maps, list("aabb"), "a", texts=[1, 2, 2, 3])
    with pytest.raises(ValueError, match="`pairs` or `texts`"):
        resonance(maps, list("aabb"), "a", texts=[1, 1, 2, 2], pairs=[1, 2, 1, 2])
    result = resonance(maps, list("aabb"), "a", texts=["x", "x", None, None])
    assert "whole texts (1 against 2): all 3 relabellings" in result.method


def test_translations_make_no_findings_of_texts():
    rng = np.random.default_rng(5)
    found = []
    for _ in range(60):
        text = rng.normal(size=(12, 1, 20)) + 0.3 * rng.normal(size=(12, 8, 20))  # 12 texts in 8 languages
        label, number = np.repeat(rng.permutation([0, 1] * 6), 8), np.repeat(np.arange(12), 8)
        scans = [
            resonance(text.reshape(96, 20), label, 1, permutations=200, stability=0, texts=texts)
            for texts in (None, number)
        ]
        found.append([(scan.p_value < 0.05).mean() for scan in scans])
    apart, together = np.mean(found, axis=0)
    assert apart > 0.3
    assert together < 0.08


def test_the_means_of_unequal_pairs_differ_by_the_score():
    maps = np.array([[8.0], [2.0], [4.0], [6.0], [1.0]])
    result = resonance(maps, ["a", "b", "b", "a", "b"], "a", pairs=[1, 1, 1, 2, 2])
    assert (result.target_mean[0], result.rest_mean[0], result.score[0]) == (7.0, 2.0, 5.0)


def test_planted_experts_are_found_and_stable(planted):
    counts, tokens, labels, where = planted
    result = resonance(prompt_maps(counts, tokens), labels, "a", top_n=4)
    found = {tuple(cell) for cell in np.argwhere(result.q_value < 0.05).tolist()}
    assert set(zip(*where, strict=True)) <= found
    assert len(found) <= 5
    assert (result.p_family[where] < 0.01).all()
    assert (result.stability[where] > 0.7).all()
    assert result.stability.sum() == pytest.approx(4)
    assert {tuple(cell) for cell in result.top().tolist()} == set(zip(*where, strict=True))
    assert result.top_mask()[where].all()
    assert result.top_mask(7).sum() == 7
    assert (
        np.abs(result.score[tuple(result.top(9).T)]).tolist() == sorted(np.abs(result.score).ravel())[:-10:-1]
    )


def test_ranking_towards_one_side(planted):
    counts, tokens, labels, where = planted
    maps = prompt_maps(counts, tokens)
    assert resonance(maps, labels, "a", top_n=4, ranking="target", stability=20).top_mask()[where].all()
    reverse = resonance(maps, labels, "b", top_n=4, ranking="rest", stability=20)
    assert reverse.top_mask()[where].all()
    np.testing.assert_allclose(reverse.score, -resonance(maps, labels, "a", stability=0).score)


def test_a_lone_expert_in_a_large_model_needs_refinement():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(24, 8, 128))
    maps[:12, 3, 77] += 4
    labels = np.repeat([1, 0], 12)
    coarse = resonance(maps, labels, 1, stability=0)
    assert coarse.q_value[3, 77] > 0.05
    assert coarse.smallest_lone_q > 0.05
    assert coarse.p_family[3, 77] < 0.01
    fine = resonance(maps, labels, 1, refine=True, stability=0)
    assert fine.q_value[3, 77] < 0.05
    assert fine.smallest_lone_q <= 0.0501
    assert fine.p_value[3, 77] >= fine.smallest_p
    settled = coarse.p_value > 0.01
    np.testing.assert_array_equal(fine.p_value[settled], coarse.p_value[settled])


@pytest.mark.parametrize("paired", [False, True])
def test_random_labels_give_no_finding_in_95_percent_of_runs(paired):
    """100 runs at 5 % would give more than 11 in less than one in 200 repetitions of this test."""
    rng = np.random.default_rng(5)
    ids = np.arange(24) % 12 if paired else None
    false = {"q": 0, "refined q": 0, "family": 0}
    for run in range(100):
        counts = rng.binomial(30, rng.beta(2, 14, size=(1, 3, 16)), size=(24, 3, 16))
        labels = np.concatenate([rng.permutation([0, 1])[:, None] for _ in range(12)], 1).ravel()
        if not paired:
            labels = rng.permutation(labels)
        for name, refine in (("q", False), ("refined q", True)):
            result = resonance(counts / 30, labels, 1, pairs=ids, seed=run, stability=0, refine=refine)
            false[name] += bool((result.q_value < 0.05).any())
        false["family"] += bool((result.p_family < 0.05).any())
    assert max(false.values()) <= 11
    assert false["q"] <= 5


def test_unequal_lengths_make_findings_of_counts_but_not_of_rates():
    rng = np.random.default_rng(2)
    tokens = np.concatenate([rng.integers(60, 90, 15), rng.integers(15, 30, 15)])
    counts = rng.binomial(tokens[:, None, None], 0.125, size=(30, 4, 16))
    labels = ["long"] * 15 + ["short"] * 15
    by_count = resonance(prompt_maps(counts, measure="count"), labels, "long", stability=0)
    by_rate = resonance(prompt_maps(counts, tokens), labels, "long", stability=0)
    assert (by_count.q_value < 0.05).mean() > 0.9
    assert (by_rate.q_value < 0.05).sum() == 0


def test_pairs_see_through_what_their_prompts_share():
    rng = np.random.default_rng(3)
    topic = rng.normal(0, 3, size=(14, 2, 8))
    maps = np.concatenate([topic, topic]) + rng.normal(0, 0.3, size=(28, 2, 8))
    maps[:14, 1, 4] += 0.8
    labels = ["x"] * 14 + ["y"] * 14
    paired = resonance(maps, labels, "x", pairs=list(range(14)) * 2, stability=50, top_n=1)
    assert np.argwhere(paired.q_value < 0.05).tolist() == [[1, 4]]
    assert paired.stability[1, 4] == 1
    assert resonance(maps, labels, "x", stability=0).q_value[1, 4] > 0.05


def test_ties_that_only_rounding_breaks_count_against_a_finding():
    """Thirds in float32 and float64: in real numbers every split of equal multisets ties."""
    thirds = np.array([1 / 3, 2 / 3, 1, 1 / 3, 2 / 3, 1, 0.1, 0.1]).reshape(8, 1)
    labels = ["t"] * 4 + ["r"] * 4
    for dtype in (np.float64, np.float32):
        result = resonance(thirds.astype(dtype), labels, "t")
        column = [Fraction(1, 3), Fraction(2, 3), Fraction(1), Fraction(1, 3)]
        column += [Fraction(2, 3), Fraction(1), Fraction(1, 10), Fraction(1, 10)]

        def score(chosen, column=column):
            return sum(column[i] for i in chosen) * 2 - sum(column)

        expected = exact_p(score, list(splits(range(8), 4)), (0, 1, 2, 3))
        assert result.p_value[0] == pytest.approx(expected)


def test_monte_carlo_agrees_with_enumeration():
    rng = np.random.default_rng(8)
    maps = rng.normal(size=(14, 1, 30))
    labels = [1] * 7 + [0] * 7
    exact = resonance(maps, labels, 1, permutations=3432, stability=0)
    drawn = resonance(maps, labels, 1, permutations=3000, stability=0)
    assert exact.exact
    assert not drawn.exact
    np.testing.assert_allclose(drawn.p_value, exact.p_value, atol=0.04)
    np.testing.assert_allclose(drawn.p_family, exact.p_family, atol=0.04)
    assert exact.smallest_p == 2 / 3432
    assert drawn.smallest_p == 1 / 3001


def test_family_p_is_the_share_of_relabellings_whose_largest_score_is_as_large():
    rng = np.random.default_rng(4)
    maps = rng.normal(size=(8, 5)) * [1, 10, 0.1, 1, 1]
    z_of = []
    for chosen in splits(range(8), 4):
        inside = np.isin(np.arange(8), chosen)
        z_of.append(np.abs(maps[inside].mean(0) - maps[~inside].mean(0)) / maps.std(0))
    z_of = np.array(z_of)
    expected = [(z_of.max(1) >= z - 1e-9).mean() for z in z_of[0]]
    assert resonance(maps, [1] * 4 + [0] * 4, 1, stability=0).p_family == pytest.approx(expected)


def test_effect_is_the_score_over_the_pooled_deviation():
    rng = np.random.default_rng(4)
    maps = rng.normal(size=(9, 2, 3))
    maps[:, 0, 0] = 0.3
    maps[:, 0, 1] = [1] * 4 + [0] * 5
    result = resonance(maps, [1] * 4 + [0] * 5, 1)
    a, b = maps[:4], maps[4:]
    pooled = np.sqrt((3 * a.var(0, ddof=1) + 4 * b.var(0, ddof=1)) / 7)
    np.testing.assert_allclose(result.effect[1], result.score[1] / pooled[1])
    assert (result.score[0, 0], result.effect[0, 0], result.p_value[0, 0]) == (0, 0, 1)
    assert (result.score[0, 1], result.effect[0, 1]) == (1, 0)
    assert result.p_value[0, 1] == pytest.approx(1 / 126)


def test_labels_of_every_kind():
    maps = np.arange(12.0).reshape(6, 2)
    labels = np.array(["a", "b", "b", "c", "", "a"])
    pooled = resonance(maps, labels, "a", stability=0)
    assert (pooled.n_target, pooled.n_rest) == (2, 3)
    chosen = resonance(maps, list(labels), ["a", "c"], {"b"}, stability=0)
    assert (chosen.n_target, chosen.n_rest) == (3, 2)
    numbers = resonance(torch.tensor(maps), torch.tensor([0, 0, 1, 1, 2, 2]), 2, rest=(0, 1), stability=0)
    assert (numbers.n_target, numbers.n_rest) == (2, 4)
    missing = resonance(maps, ["a", None, float("nan"), "b", "b", "a"], "a", stability=0)
    assert (missing.n_target, missing.n_rest) == (2, 2)


def test_the_same_seed_gives_the_same_result():
    maps = np.random.default_rng(0).normal(size=(20, 3, 4))
    labels = [0, 1] * 10
    one, same, other = (resonance(maps, labels, 1, seed=seed) for seed in (1, 1, 2))
    assert (one.p_value == same.p_value).all()
    assert (one.stability == same.stability).all()
    assert (one.p_value != other.p_value).any()
    assert (one.score == other.score).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target": "z"}, "target group has no prompts; labels are"),
        ({"rest": ["z"]}, "rest group has no prompts"),
        ({"rest": ["a", "b"]}, "in target and rest"),
        ({"labels": ["a", "b"]}, "2 entries for 4 prompts"),
        ({"pairs": [1, 2, 3, 4]}, "no pair has a prompt on both sides"),
        ({"pairs": [1, 2]}, "pairs has 2 entries"),
        ({"maps": np.full((4, 2), np.nan)}, r"maps\[0, 0\] is NaN"),
        ({"maps": np.array([[1.0], [2], [np.inf], [0]])}, r"maps\[2, 0\] is infinite"),
        ({"maps": np.ones(4)}, r"\(P, L, E\)"),
        ({"permutations": 0}, "permutations"),
        ({"top_n": 0}, "top_n"),
        ({"ranking": "up"}, "ranking"),
    ],
)
def test_wrong_input_is_refused(change, says):
    arguments = {"maps": np.ones((4, 2)), "labels": ["a", "a", "b", "b"], "target": "a"} | change
    with pytest.raises(ValueError, match=says):
        resonance(**arguments)

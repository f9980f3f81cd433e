"""The alignment views against sums written out by hand from the parts that went into the trace."""

import math

import numpy as np
import pytest

from moescope.store import StoreError, open_trace
from moescope.store.notes import notes_of
from moescope.store.views.alignment import alignment
from moescope.store.write.synthetic import Synthetic, synthetic_parts, write_synthetic

PLAN = Synthetic(prompts=48, languages=4, layers=3, experts=8, top_k=2, part_tokens=600)


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alignment") / "trace"
    write_synthetic(str(folder), PLAN)
    return open_trace(folder)


@pytest.fixture(scope="module")
def sums():
    """(parallel_id, language, layer) → probability sums and counts, added up one row at a time."""
    found = {}
    for part in synthetic_parts(PLAN):
        prompts = part.prompts.to_pylist()
        for router in part.sums:
            for row, prompt in enumerate(router.prompt):
                key = (prompts[prompt]["parallel_id"], prompts[prompt]["language"], router.layer)
                total, _, _ = found.setdefault(key, [np.zeros(8), np.zeros(8), 0])
                found[key][0] = total + router.probability_sum[row]
        for events in part.events:
            for row, prompt in enumerate(events.prompt):
                key = (prompts[prompt]["parallel_id"], prompts[prompt]["language"], events.layer)
                found[key][2] += 1
                for expert in events.experts[row]:
                    found[key][1][expert] += 1
    return found


def slow_divergence(p, q):
    def entropy(x):
        return -sum(v * math.log(v) for v in x if v > 0)

    mean = (entropy(p) + entropy(q)) / 2
    return (entropy((p + q) / 2) - mean) / (math.log(len(p)) - mean)


def distribution(sums, *key):
    total = sums[key][0]
    return total / total.sum()


def test_alignment_is_the_mean_over_pairs_of_the_divergence_of_each_pair(trace, sums):
    table = trace.view("alignment", resamples=50).to_pylist()
    assert len(table) == 3 * 3
    for row in table:
        layer, language = row["layer"], row["language"]
        pairs = [
            slow_divergence(distribution(sums, unit, language, layer), distribution(sums, unit, "en", layer))
            for unit in sorted({key[0] for key in sums})
        ]
        assert row["units"] == len(pairs) == 12
        assert row["divergence"] == pytest.approx(np.mean(pairs), rel=1e-5)
        assert row["low"] < row["divergence"] < row["high"]


def test_matrix_row_of_the_pivot_is_the_alignment_view(trace):
    matrix = trace.view("alignment-matrix", layer=1, resamples=50).to_pylist()
    line = {row["language"]: row["divergence"] for row in trace.view("alignment", layers="1").to_pylist()}
    cells = {(row["language_a"], row["language_b"]): row["divergence"] for row in matrix}
    assert len(cells) == 16
    for language, divergence in line.items():
        assert cells["en", language] == cells[language, "en"] == pytest.approx(divergence)
    assert {row["order_a"] for row in matrix} == {0, 1, 2, 3}


def test_matrix_over_a_window_is_the_mean_of_its_layers(trace):
    def cells(**params):
        return [row["divergence"] for row in trace.view("alignment-matrix", **params).to_pylist()]

    window = cells(layers="1:2")
    assert window == pytest.approx(np.mean([cells(layer=1), cells(layer=2)], axis=0))


def test_the_matrix_counts_only_texts_that_have_such_tokens(trace, monkeypatch):
    whole = alignment.all_pairs

    def without_one(*args):
        *rest, (divergence_UQ, present_UN) = whole(*args)
        here = present_UN.copy()
        here[0, 0] = False
        return [*rest, (divergence_UQ, here)]

    monkeypatch.setattr(alignment, "all_pairs", without_one)
    for row in trace.view("alignment-matrix", resamples=50).to_pylist():
        assert row["units"] == 12 - ("de" in (row["language_a"], row["language_b"]))


def test_routing_entropy_is_the_mean_of_sequence_entropies(trace, sums):
    for row in trace.view("routing-entropy", layers="0").to_pylist():
        each = [distribution(sums, *key) for key in sums if key[1:] == (row["language"], 0)]
        assert row["entropy"] == pytest.approx(np.mean([-(q * np.log(q)).sum() for q in each]), rel=1e-5)


def test_routing_consistency_is_the_overlap_of_every_two_tokens(trace):
    events = trace.events(layer=2, columns=["prompt_id", "experts"]).to_pylist()
    language = {row["prompt_id"]: row["language"] for row in trace.prompts().to_pylist()}
    tokens = {}
    for row in events:
        tokens.setdefault(row["prompt_id"], []).append(set(row["experts"]))
    overlaps = {}
    for prompt, sets in tokens.items():
        pairs = [len(a & b) / 2 for i, a in enumerate(sets) for j, b in enumerate(sets) if i != j]
        overlaps.setdefault(language[prompt], []).append(np.mean(pairs))
    for row in trace.view("routing-consistency", layers="2").to_pylist():
        assert row["consistency"] == pytest.approx(np.mean(overlaps[row["language"]]))
        assert row["chance"] == 2 / 8


def test_specialised_experts_exceed_the_pivot_by_more_than_tau(trace, sums):
    tau = 0.1
    found = {
        (row["layer"], row["expert"], row["language"]): row["delta"]
        for row in trace.view("specialised-experts", tau=tau, resamples=50).to_pylist()
    }
    units = sorted({key[0] for key in sums})
    expected = {}
    for layer in range(3):
        for language in ("de", "es", "fr"):
            rates = [
                sums[u, language, layer][1] / sums[u, language, layer][2]
                - sums[u, "en", layer][1] / sums[u, "en", layer][2]
                for u in units
            ]
            expected |= {(layer, e, language): d for e, d in enumerate(np.mean(rates, axis=0)) if d > tau}
    assert expected
    assert found == pytest.approx(expected)


def test_counts_over_tau_agree_with_the_experts_listed(trace):
    listed = trace.view("specialised-experts", tau=0.1, resamples=2).to_pylist()
    kinds = {(row["layer"], row["expert"]): row["kind"] for row in listed}
    counted = {
        (row["layer"], row["kind"]): row["experts"]
        for row in trace.view("specialised-counts").to_pylist()
        if row["tau"] == 0.1
    }
    for key, experts in counted.items():
        assert experts == sum(1 for (layer, _), kind in kinds.items() if (layer, kind) == key)


def test_task_experts_are_measured_against_the_pivots_other_prompts(trace):
    table = trace.view("specialised-experts", tau=0.01, task="even", resamples=2).to_pylist()
    task = {(row["layer"], row["expert"]): row["delta"] for row in table if row["language"] is None}
    prompts = trace.prompts().to_pylist()
    of = {row["prompt_id"]: row for row in prompts}
    rates = {}
    for (prompt_id, layer), rows in _experts_by_prompt(trace).items():
        if of[prompt_id]["language"] == "en":
            counts = np.bincount(np.concatenate(rows), minlength=8) / len(rows)
            rates.setdefault((layer, of[prompt_id]["group"] == "even"), []).append(counts)
    assert task
    for (layer, expert), delta in task.items():
        means = [np.mean(rates[layer, in_task], axis=0)[expert] for in_task in (True, False)]
        assert delta == pytest.approx(means[0] - means[1])


def _experts_by_prompt(trace):
    found = {}
    for row in trace.events(columns=["prompt_id", "layer", "experts"]).to_pylist():
        found.setdefault((row["prompt_id"], row["layer"]), []).append(row["experts"])
    return found


def test_correlation_of_a_perfect_line_is_minus_one(trace):
    line = trace.view("alignment", layers="0:2")
    mean = {}
    for row in line.to_pylist():
        mean.setdefault(row["language"], []).append(row["divergence"])
    scores = {language: 1 - float(np.mean(values)) for language, values in mean.items()}
    for row in trace.view("alignment-correlation", scores=scores, layers="0:2").to_pylist():
        assert row["r"] == pytest.approx(-1.0)
        assert row["languages"] == 3


def test_a_language_without_partners_is_left_out_and_named(trace):
    """English and German of the first unit, French of the second only."""
    prompts = trace.prompts().to_pylist()
    at = {(row["parallel_id"], row["language"]): row["prompt_id"] for row in prompts}
    chosen = [at["u00000", "en"], at["u00000", "de"], at["u00001", "fr"]]
    table = trace.view("alignment", where={"prompt_id": chosen}, layers="0")
    assert table["language"].to_pylist() == ["de"]
    assert table["low"].to_pylist() == [None], "one unit says nothing of its spread"
    assert any("Left out" in note and "fr" in note for note in notes_of(table))


def test_unequal_coverage_is_stated(trace):
    prompts = trace.prompts().to_pylist()
    dropped = next(row["prompt_id"] for row in prompts if row["language"] == "fr")
    kept = [row["prompt_id"] for row in prompts if row["prompt_id"] != dropped]
    table = trace.view("alignment", where={"prompt_id": kept}, layers="0", resamples=10)
    assert dict(zip(table["language"].to_pylist(), table["units"].to_pylist(), strict=True)) == {
        "de": 12,
        "es": 12,
        "fr": 11,
    }
    assert any("Unequal coverage of the 12 units: fr 11" in note for note in notes_of(table))


def test_errors_say_what_there_is(trace):
    with pytest.raises(StoreError, match="no prompt has language 'xx'"):
        trace.view("alignment", pivot="xx")
    with pytest.raises(StoreError, match="write 3:6"):
        trace.view("alignment", layers="a:b")
    with pytest.raises(StoreError, match="no router at layers 9"):
        trace.view("alignment", layers="9")
    with pytest.raises(StoreError, match="no accuracies"):
        trace.view("alignment-correlation")


def test_lines_are_the_same_whether_all_pairs_are_worked_out_or_the_pivots_only(trace, monkeypatch):
    every = {pivot: trace.view("alignment", pivot=pivot, resamples=50) for pivot in ("en", "fr")}
    monkeypatch.setattr("moescope.store.views.alignment.divergences.EVERY_PAIR", 0)
    for pivot, table in every.items():
        alone = open_trace(trace.url).view("alignment", pivot=pivot, resamples=50)
        for name in ("language", "layer", "units"):
            assert alone[name] == table[name]
        for name in ("divergence", "low", "high"):
            np.testing.assert_allclose(alone[name], table[name], rtol=1e-12)


def test_what_is_remembered_for_one_choice_of_prompts_and_tokens_is_not_told_for_another(trace):
    choices = [
        {},
        {"special": False},
        {"where": {"language": ["en", "de"]}},
        {"where": {"language": ["en", "fr"]}},
        {"where": {"seen": "yes"}},
    ]
    for name in ("alignment", "routing-entropy", "routing-consistency", "specialised-counts", "load"):
        params = {"by": "language"} if name == "load" else {}
        for choice in choices:
            fresh = open_trace(trace.url).view(name, **params, **choice)
            assert trace.view(name, **params, **choice).equals(fresh), (name, choice)
            assert trace.view(name, **params, **choice).equals(fresh), (name, choice)

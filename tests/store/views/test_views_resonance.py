"""The resonance view against sums over events, and what it must not find."""

import numpy as np
import pytest

from moescope.store import StoreError, open_trace
from moescope.store.errors import BadArgument
from moescope.store.importers import run
from moescope.store.notes import notes_of
from moescope.store.response_classes import REFUSAL_RULES, classify
from moescope.store.write.synthetic import Synthetic, write_synthetic

PLAN = Synthetic(prompts=64, languages=4, layers=3, experts=8, top_k=2, part_tokens=700)


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resonance") / "trace"
    write_synthetic(str(folder), PLAN)
    return open_trace(folder)


@pytest.fixture(scope="module")
def rates(trace):
    """prompt_id → (layers, experts) share of tokens, one event at a time."""
    counts = {}
    for row in trace.events(columns=["prompt_id", "layer", "position", "experts"]).to_pylist():
        counts.setdefault(row["prompt_id"], {}).setdefault((row["layer"], row["position"]), row["experts"])
    rates = {}
    for prompt, events in counts.items():
        map_LE, tokens = np.zeros((3, 8)), len({position for _, position in events})
        for (layer, _), experts in events.items():
            map_LE[layer, experts] += 1
        rates[prompt] = map_LE / tokens
    return rates


def mean_map(trace, rates, **where):
    ids = trace.prompts(where)["prompt_id"].to_pylist()
    return np.mean([rates[prompt] for prompt in ids], axis=0)


def test_score_is_the_difference_of_mean_maps(trace, rates):
    table = trace.view("resonance", by="language", target="de", paired=False, permutations=200)
    expected = mean_map(trace, rates, language=["de"]) - mean_map(trace, rates, language=["en", "fr", "es"])
    assert table.num_rows == 24
    for row in table.to_pylist():
        assert row["score"] == pytest.approx(expected[row["layer"], row["expert"]])
        assert row["score"] == pytest.approx(row["target_mean"] - row["rest_mean"])
        assert 0 < row["p"] <= row["q"] + 1e-12 <= 1 + 1e-12
    scores = np.abs(table["score"])
    assert (np.diff(scores) <= 1e-12).all()


def test_translations_are_exchanged_within_their_unit(trace):
    table = trace.view("resonance", by="language", target="de", rest="en", permutations=200)
    assert any("within 16 pairs" in note for note in notes_of(table))
    apart = trace.view("resonance", by="language", target="de", rest="en", paired=False, permutations=200)
    assert not any("pairs" in note for note in notes_of(apart))
    assert table["score"].to_pylist() == pytest.approx(apart["score"].to_pylist())


def test_a_language_is_found_and_a_random_group_is_not(trace):
    language = trace.view("resonance", by="language", target="de", rest="en")
    assert min(language["q"].to_pylist()) < 0.05
    ids = trace.prompts({"language": ["en"]})["prompt_id"].to_pylist()
    false = 0
    for seed in range(20):
        half = np.random.default_rng(seed).permutation(ids)[:8]
        table = trace.view(
            "resonance", by="prompt_id", target=",".join(half), where={"language": ["en"]}, permutations=500
        )
        false += min(table["q"].to_pylist()) < 0.05
    assert false <= 4


def test_a_query_names_the_same_prompts_as_the_column(trace):
    query = "select prompt_id from prompts where language = 'fr'"
    by_query = trace.view("resonance", target=query, by="language", permutations=100)
    by_column = trace.view("resonance", target="fr", by="language", permutations=100)
    assert by_query.equals(by_column, check_metadata=False)


def test_last_tokens_come_from_the_events(trace):
    table = trace.view(
        "resonance", by="language", target="de", rest="en", last=3, paired=False, permutations=50
    )
    last = {}
    for row in trace.events(columns=["prompt_id", "layer", "position", "experts"]).to_pylist():
        last.setdefault((row["prompt_id"], row["layer"]), []).append((row["position"], row["experts"]))
    language = {row["prompt_id"]: row["language"] for row in trace.prompts().to_pylist()}
    maps = {"de": [], "en": []}
    for prompt, name in language.items():
        if name in maps:
            map_LE = np.zeros((3, 8))
            for layer in range(3):
                events = sorted(last[prompt, layer])[-3:]
                for _, experts in events:
                    map_LE[layer, experts] += 1 / len(events)
            maps[name].append(map_LE)
    expected = np.mean(maps["de"], axis=0) - np.mean(maps["en"], axis=0)
    for row in table.to_pylist():
        assert row["score"] == pytest.approx(expected[row["layer"], row["expert"]])


def test_the_last_tokens_of_a_completion_are_its_own(tmp_path):
    steps = [(0, "false"), (1, "true"), (2, "true"), (3, "false"), (4, "false")]  # position = expert
    lines = ["sequence,step,layer,expert,completion,phase"]
    lines += [f"a,{step},0,{step},{inside},prefill" for step, inside in steps]
    (tmp_path / "events.csv").write_text("\n".join([*lines, "a,5,0,5,false,decode"]))
    run("neutral", tmp_path / "events.csv", tmp_path / "trace")
    found = open_trace(tmp_path / "trace")
    for completion, experts in ((None, [3, 4]), (True, [1, 2]), (False, [3, 4])):
        table = found.view("prompt-maps", prompts="a", measure="count", last=2, completion=completion)
        assert [row["expert"] for row in table.to_pylist() if row["value"]] == experts
    with pytest.raises(BadArgument, match="own tokens"):
        found.view("prompt-maps", prompts="a", last=2, phase="decode")


def test_translations_on_one_side_change_sides_together(trace):
    texts = trace.prompts()["parallel_id"].to_pylist()
    first = sorted(set(texts))[: len(set(texts)) // 2]
    ids = [row["prompt_id"] for row in trace.prompts().to_pylist() if row["parallel_id"] in first]
    table = trace.view("resonance", by="prompt_id", target=ids, permutations=100, stability=10)
    assert any("exchanging whole texts (8 against 8)" in note for note in notes_of(table))
    cells = trace.view("resonance-tokens", cells="0:1", by="prompt_id", target=ids, limit=0)
    (score,) = [row["score"] for row in table.to_pylist() if (row["layer"], row["expert"]) == (0, 1)]
    assert sum(cells["contribution"].to_pylist()) == pytest.approx(score)


def test_a_text_that_stands_on_both_sides_lets_no_other_fall_apart(trace):
    texts = sorted(set(trace.prompts()["parallel_id"].to_pylist()))
    rows = trace.prompts().to_pylist()
    ids = [row["prompt_id"] for row in rows if row["parallel_id"] in texts[:8]]
    ids += [row["prompt_id"] for row in rows if row["parallel_id"] == texts[8]][:1]
    table = trace.view("resonance", by="prompt_id", target=ids, permutations=100, stability=10)
    assert any("exchanging whole texts (9 against 8)" in note for note in notes_of(table))


def test_a_contrast_coincides_with_itself(trace):
    (row,) = trace.view("resonance-overlap", by="language", target="de", other_target="de", top=5).to_pylist()
    assert row["jaccard"] == 1.0
    assert row["shared"] == 5
    assert row["p"] < 0.05


def test_groups_that_make_no_contrast_are_refused(trace):
    with pytest.raises(StoreError, match="the two groups share"):
        trace.view("resonance", by="language", target="de", rest="de,en")
    with pytest.raises(StoreError, match="no prompt belongs to language xx"):
        trace.view("resonance", by="language", target="xx")
    with pytest.raises(StoreError, match="needs rules"):
        trace.view("resonance", by="class", target="refusal")


def test_answers_are_sorted_by_the_first_rule_that_matches():
    refused = classify("I'm sorry, but I can't help with that.", REFUSAL_RULES)
    assert refused is not None
    assert (refused.name, refused.matched) == ("refusal", "I'm sorry")
    answered = classify("The capital is Paris.", REFUSAL_RULES)
    assert answered is not None
    assert answered.name == "other"
    assert classify(None, REFUSAL_RULES) is None
    with pytest.raises(StoreError, match="not a regular expression"):
        classify("x", {"bad": ["("]})

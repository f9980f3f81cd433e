"""An evaluation's numbers against plain passes of the model; its controls against what they must be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import character_tokenizer, tiny_olmoe
from transformers import AutoTokenizer

from moescope.store import RouterSpec
from moescope.tracer import PromptSet, Steering, find_routers, record_routing
from moescope.tracer.evaluate.controls import make_controls
from moescope.tracer.evaluate.dose import cells_of, dose_of, dose_table, doses_of_amount, doses_of_experts
from moescope.tracer.evaluate.effects import Evaluation
from moescope.tracer.evaluate.finding import is_finding, judge, p_of_draws, why_not
from moescope.tracer.evaluate.run import dose_curve, evaluate
from moescope.tracer.evaluate.tally import scored_sequences
from moescope.tracer.evaluate.units import contrast_interval, mean_interval, units_of
from moescope.tracer.generate import generate
from moescope.tracer.tokens.encode import Encoder

ROWS = [
    {"id": "a", "text": "Where is the library?", "language": "en"},
    {"id": "b", "text": "~~{}~~ 0123", "language": "xx"},
    {"id": "c", "text": "It was", "completion": " a dark night", "language": "en"},
    {"id": "d", "text": "2 + 2 =", "choices": [" 4", " five", " none"], "answer": 1, "language": "xx"},
    {"id": "e", "text": "x", "language": "en"},
]
OFF = Steering([{"rule": "off", "layers": [0, 2], "experts": [1, 4, 6]}])


Setting = tuple[Any, Any]


@pytest.fixture(scope="module")
def setting() -> Setting:
    return tiny_olmoe(), character_tokenizer()


@pytest.fixture(scope="module")
def found(setting: Setting):
    return evaluate(*setting, PromptSet.from_rows(ROWS), OFF, batch_tokens=64)


def plain(setting: Setting, text, steering, first):
    """Log-probabilities of the tokens of a text from `first` on, full distributions, and experts by layer."""
    model, tokenizer = setting
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad(), record_routing(model, steering=steering) as routing:
        logprobs = model(ids).logits[0].double().log_softmax(-1)
    own = logprobs[:-1].gather(-1, ids[0, 1:, None]).squeeze(-1)
    return own[first - 1 :], logprobs[first - 1 : -1], [routing.ids(layer) for layer in range(3)]


def test_likelihood_kl_and_changed_experts_are_those_of_plain_passes(setting: Setting, found):
    for place, row in enumerate(ROWS):
        if "choices" in row:
            continue
        text, first = row["text"] + row.get("completion", ""), 1 + len(row["text"]) * ("completion" in row)
        base, base_all, base_ids = plain(setting, text, None, first)
        steered, steered_all, steered_ids = plain(setting, text, OFF, first)
        own = found.variants["profile"]
        assert found.base.nll_P[place] == pytest.approx(-base.sum().item(), abs=1e-4)
        assert own.nll_P[place] == pytest.approx(-steered.sum().item(), abs=1e-4)
        assert own.tokens_P[place] == len(base) == own.positions_P[place]
        assert own.bytes_P[place] == len(row.get("completion", row["text"]))
        kl = (base_all.exp() * (base_all - steered_all)).sum()
        assert own.kl_P[place] == pytest.approx(kl.item(), abs=1e-4)
        changed = [
            sum(set(a) != set(b) for a, b in zip(one.tolist(), two.tolist(), strict=True))
            for one, two in zip(base_ids, steered_ids, strict=True)
        ]
        assert own.changed_PL[place].tolist() == changed
        assert own.routed_P[place] == len(text) + 1


def test_the_answer_is_the_likeliest_choice(setting: Setting, found):
    row, place = ROWS[3], 3
    for outcome, steering in ((found.base, None), (found.variants["profile"], OFF)):
        sums = [
            plain(setting, row["text"] + choice, steering, 1 + len(row["text"]))[0].sum().item()
            for choice in row["choices"]
        ]
        assert outcome.correct_P[place] == (int(np.argmax(sums)) == row["answer"])
        assert outcome.nll_P[place] == pytest.approx(-sums[row["answer"]], abs=1e-4)


def test_bytes_are_counted_where_a_text_begins_within_a_character():
    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parents[3] / "sample_data" / "model")
    texts = ["괜찮다", "鬱は", "Ünder", "plain"]
    parts = [tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) for text in texts]
    assert any(len(first) < len(text[0].encode()) for text, (first, *_) in zip(texts, parts, strict=True))
    found = scored_sequences(
        list(PromptSet.from_rows([{"text": text} for text in texts])), Encoder(tokenizer), tokenizer
    )  # byte-level: a character of a token's spelling is a byte
    assert [one.bytes for one in found] == [sum(map(len, rest)) for _, *rest in parts]


def test_batches_change_nothing(setting: Setting, found):
    other = evaluate(*setting, PromptSet.from_rows(ROWS), OFF, batch_tokens=1, controls=0)
    for name in ("nll_P", "kl_P", "changed_PL", "correct_P"):
        mine, theirs = (getattr(e.variants["profile"], name) for e in (found, other))
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_neutral_steering_has_no_effect_and_is_no_finding(setting: Setting):
    neutral = Steering([{"rule": "scale", "layers": [1], "experts": [2], "amount": 1.0}])
    table = evaluate(*setting, PromptSet.from_rows(ROWS), neutral).effects()
    assert set(table["change"].to_pylist()) == {0.0}
    assert not any(table["finding"].to_pylist())


def test_effects_are_weighted_means_by_group_with_every_control_beside_them(found):
    rows = found.effects(by="language", target="xx").to_pylist()
    assert {row["kind"] for row in rows} == {"profile", "random", "layers", "opposite"}
    chosen = [row for row in rows if row["variant"] == "profile" and row["measure"] == "log_perplexity"]
    assert [row["group"] for row in chosen] == ["all", "en", "xx", "xx − others"]
    own, english = found.variants["profile"], [0, 2, 4]
    change = (own.nll_P - found.base.nll_P)[english].sum() / own.tokens_P[english].sum()
    assert chosen[1]["change"] == pytest.approx(change)
    assert chosen[3]["change"] == pytest.approx(chosen[2]["change"] - chosen[1]["change"])
    assert chosen[1]["steered"] - chosen[1]["base"] == pytest.approx(change)
    for row in rows:
        assert (row["finding"] is None) == (row["kind"] != "profile")


def test_an_evaluation_survives_json(found):
    again = Evaluation.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    for table in (lambda e: e.effects(by="language", target="xx"), lambda e: e.by_layer()):
        assert table(again).to_pandas().equals(table(found).to_pandas())
    with pytest.raises(ValueError, match="no prompt has language 'de'; there are en, xx"):
        again.effects(by="language", target="de")
    with pytest.raises(ValueError, match="have no 'colour'; they have language"):
        again.effects(by="colour")


def test_changed_tokens_by_layer(found):
    rows = found.by_layer().to_pylist()
    own = found.variants["profile"]
    mine = [row["changed"] for row in rows if row["variant"] == "profile"]
    assert mine == pytest.approx((own.changed_PL.sum(0) / own.routed_P.sum()).tolist())


def test_generated_texts_are_those_of_generate(setting: Setting):
    prompts = PromptSet.from_rows([row for row in ROWS if "completion" not in row])
    result = evaluate(*setting, prompts, OFF, controls=0, max_new_tokens=8)
    for outcome, steering in ((result.base, None), (result.variants["profile"], OFF)):
        alone = [generate(*setting, p.text, max_new_tokens=8, steering=steering)[0].text for p in prompts]
        assert outcome.texts == alone


def test_rules_on_what_follows_the_prompt_act_on_completions_only(setting: Setting):
    later = Steering([{"rule": "off", "layers": [0], "experts": [0, 1, 2, 3], "span": "generation"}])
    own = evaluate(*setting, PromptSet.from_rows(ROWS), later, controls=0).variants["profile"]
    assert (own.changed_PL.sum(1) > 0).tolist() == [False, False, True, True, False]


def test_a_dose_curve_has_an_effect_per_dose(setting: Setting):
    ranking = [(0, 1), (2, 4), (2, 6), (1, 0)]
    make = doses_of_experts({"rule": "off"}, ranking)
    curve = dose_curve(*setting, PromptSet.from_rows(ROWS), make, [0, 2, 4])
    assert list(curve.variants) == ["0", "2", "4"]
    assert curve.variants["0"].kl_P.sum() == 0
    assert curve.profiles["4"]["rules"][2]["experts"] == [4, 6]
    bias = doses_of_amount(Steering([{"rule": "bias", "layers": [0], "experts": [1], "amount": 1.0}]))
    assert bias(0.5).rules[0].amount == 0.5


def specs(layers=6, experts=8, top_k=2):
    return [RouterSpec(layer=i, num_experts=experts, top_k=top_k, router=f"r{i}") for i in range(layers)]


def experts_by_layer(steering):
    """Layer → experts of a steering whose rules each name one layer."""
    return {rule["layers"][0]: set(rule["experts"]) for rule in steering.to_json()["rules"]}


@given(
    st.dictionaries(
        st.integers(0, 5), st.sets(st.integers(0, 7), min_size=1, max_size=4), min_size=1, max_size=3
    ),
    st.integers(0, 99),
)
def test_random_controls_take_as_many_other_experts_of_the_same_layers(chosen, seed):
    steering = Steering([{"rule": "off", "experts": {layer: sorted(ids) for layer, ids in chosen.items()}}])
    controls, _ = make_controls(steering, specs(), seed=seed)
    random = [control for control in controls if control.kind == "random"]
    assert len(random) == 5
    for control in random:
        drawn = experts_by_layer(control.steering)
        assert {layer: len(ids) for layer, ids in drawn.items()} == {
            layer: len(ids) for layer, ids in chosen.items()
        }
        assert all(not drawn[layer] & set(ids) for layer, ids in chosen.items())
    (moved,) = [control for control in controls if control.kind == "layers"]
    others = experts_by_layer(moved.steering)
    assert not set(others) & set(chosen)
    assert sorted(map(len, chosen.values())) == sorted(map(len, others.values()))


def test_controls_keep_on_and_off_apart():
    rules = [
        {"rule": "off", "layers": [1], "experts": [0, 1]},
        {"rule": "bias", "layers": [1], "experts": [2], "amount": 1.0},
    ]
    for control in make_controls(Steering(rules), specs())[0]:
        off, bias = control.steering.rules[:2]
        assert not set(off.experts or ()) & set(bias.experts or ())


@pytest.mark.parametrize(
    ("rule", "turned"),
    [
        ({"rule": "off", "experts": [1]}, {"rule": "on", "experts": (1,)}),
        ({"rule": "on", "experts": [1]}, {"rule": "off", "experts": (1,)}),
        ({"rule": "low", "experts": [1]}, {"rule": "on", "experts": (1,)}),
        ({"rule": "zero", "experts": [1]}, {"rule": "scale", "amount": 2.0}),
        ({"rule": "bias", "experts": [1], "amount": 0.5}, {"rule": "bias", "amount": -0.5}),
        ({"rule": "scale", "experts": [1], "amount": 4.0}, {"rule": "scale", "amount": 0.25}),
        ({"rule": "temperature", "amount": 2.0}, {"rule": "temperature", "amount": 0.5}),
    ],
)
def test_the_opposite_of_a_rule(rule, turned):
    controls, _ = make_controls(Steering([{**rule, "layers": [2]}]), specs())
    (other,) = [control.steering.rules[0] for control in controls if control.kind == "opposite"]
    assert {name: getattr(other, name) for name in turned} == turned


def test_a_vector_is_shuffled_moved_and_negated():
    delta = [1.0, -2.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.5]
    controls, notes = make_controls(Steering([{"rule": "vector", "layers": [2], "vector": delta}]), specs())
    by_kind = {control.kind: control.steering.rules[0] for control in controls}
    assert sorted(by_kind["random"].vector_in(2)) == sorted(delta)
    assert by_kind["random"].vector_in(2) != tuple(delta)
    assert by_kind["layers"].layers != (2,)
    assert by_kind["opposite"].vector_in(2) == tuple(-value for value in delta)
    assert notes == []


def test_what_a_profile_cannot_be_compared_with_is_said():
    _, notes = make_controls(Steering([{"rule": "top_k", "layers": "all", "amount": 1}]), specs())
    assert len(notes) == 3
    assert "does not choose among the experts" in notes[0]
    assert "is the same in every layer" in notes[1]
    assert "top_k has no opposite" in notes[2]


def test_no_more_experts_are_on_in_the_opposite_than_a_token_uses():
    controls, notes = make_controls(Steering([{"rule": "off", "layers": [0], "experts": [0, 1, 2]}]), specs())
    assert notes == ["control 'opposite': without 1 expert, because a token can't use more at once"]
    (other,) = [control.steering.rules for control in controls if control.kind == "opposite"]
    assert [(rule.rule, rule.experts) for rule in other] == [("on", (0, 1))]


@given(st.sets(st.integers(0, 5), min_size=4), st.integers(0, 99))
def test_where_most_layers_are_steered_the_layers_change_places(layers, seed):
    rng = np.random.default_rng(seed)
    cells = {layer: set(rng.choice(8, 2, replace=False).tolist()) for layer in layers}
    rules = [{"rule": "off", "layers": [layer], "experts": sorted(ids)} for layer, ids in cells.items()]
    controls, notes = make_controls(Steering(rules), specs())
    (moved,) = [control for control in controls if control.kind == "layers"]
    others = experts_by_layer(moved.steering)
    steps = {
        step for step in range(1, 6) if others == {(layer + step) % 6: ids for layer, ids in cells.items()}
    }

    def shared(step):
        return sum(len(ids & cells.get((layer + step) % 6, set())) for layer, ids in cells.items())

    assert len(steps) >= 1
    assert min(steps, key=shared) in steps
    assert shared(min(steps)) == min(map(shared, range(1, 6)))
    assert any("the layers change places" in note for note in notes)


def test_a_finding_lies_beyond_zero_and_beyond_every_control():
    def row(low, high, kind="profile"):
        return {"change": (low + high) / 2, "low": low, "high": high, "kind": kind, "variant": kind}

    weak = [row(-0.1, 0.1, "random") for _ in range(5)]
    assert is_finding(row(0.2, 0.4), weak)
    assert is_finding(row(-0.4, -0.2), weak)
    assert not is_finding(row(0.05, 0.4), weak)
    assert not is_finding(row(0.2, 0.4), weak[:4])
    assert not is_finding(row(0.2, 0.4), [*weak, row(0.1, 0.3, "layers")])
    assert not is_finding(row(-0.1, 0.4), [row(-0.5, -0.3, "random") for _ in range(5)])
    assert not is_finding(row(0.2, math.nan), weak)


def test_behaviour_rates_are_effects_like_any_other(setting: Setting):
    result = evaluate(*setting, PromptSet.from_rows(ROWS), OFF, controls=0, max_new_tokens=4)
    result.base.texts = ["yes", "no", "yes", "no", "no"]
    result.variants["profile"].texts = ["yes", "yes", "yes", "yes", "no"]
    rows = result.effects(classes={"agrees": ["yes"]}).to_pylist()
    (row,) = [row for row in rows if row["measure"] == "behaviour: agrees"]
    assert (row["base"], row["steered"], row["change"]) == pytest.approx((0.4, 0.8, 0.4))


def test_routers_of_the_model_are_named(setting: Setting, found):
    assert found.routers == [(spec.layer, spec.stream) for spec in find_routers(setting[0])]


def test_what_stands_against_a_finding_is_said():
    def row(low, high, kind="random", name="random 1"):
        return {"change": (low + high) / 2, "low": low, "high": high, "kind": kind, "variant": name}

    draws = [row(-0.1, 0.1, name=f"random {n}") for n in range(5)]
    assert why_not(row(0.2, 0.4), draws) == ""
    assert why_not(row(-0.1, 0.4), draws) == "the interval holds 0"
    assert why_not(row(0.2, 0.4), draws[1:]) == "4 random draws; 5 are needed"
    rivals = [*draws[1:], row(0.1, 0.3, name="random 9"), row(0.4, 0.6, "opposite", "opposite")]
    assert why_not(row(0.2, 0.5), rivals) == (
        "its interval does not lie beyond that of 1 of 5 random draws and the opposite sign"
    )
    assert why_not(row(0.2, math.nan), draws) == "too few prompts for an interval"
    assert p_of_draws(row(0.2, 0.4), draws) == pytest.approx(1 / 6)
    assert p_of_draws(row(0.2, 0.5), rivals) == pytest.approx(1 / 6)
    assert p_of_draws(row(-0.3, -0.1), [*draws, row(-0.5, -0.3)]) == pytest.approx(2 / 7)
    assert p_of_draws(row(0.2, 0.4), []) is None


def test_doses_are_no_rivals_of_the_profile():
    rows: list[dict[str, Any]] = [
        {
            "change": 0.3,
            "low": 0.2,
            "high": 0.4,
            "kind": kind,
            "variant": kind,
            "measure": "kl",
            "group": "all",
        }
        for kind in ("profile", "dose", *["random"] * 5)
    ]
    for row in rows[2:]:
        row |= {"change": 0.0, "low": -0.1, "high": 0.1}
    judge(rows)
    assert rows[0]["finding"] is True
    assert "finding" not in rows[1]


def test_translations_of_one_text_are_one_unit():
    assert units_of(["a", None, "b", "a", None, "", "b"]) == [0, 1, 2, 0, 3, 4, 2]
    rng = np.random.default_rng(0)
    unit_P = np.repeat(np.arange(40), 6)
    change_P = rng.normal(size=40)[unit_P]
    alone = mean_interval(change_P[::6], np.ones(40), np.arange(40), 2000)
    copied = mean_interval(change_P, np.ones(240), unit_P, 2000)
    naive = mean_interval(change_P, np.ones(240), np.arange(240), 2000)
    assert (copied.low, copied.high, copied.units) == pytest.approx((alone.low, alone.high, 40))
    assert naive.high - naive.low < 0.5 * (copied.high - copied.low)


def test_a_units_prompts_count_by_their_weight():
    change_P, weights_P = np.array([1.0, np.nan, 3.0, 5.0]), np.array([2.0, 0.0, 1.0, 1.0])
    found = mean_interval(change_P, weights_P, np.array([0, 0, 1, 1]), 200)
    assert (found.point, found.units) == (2.5, 2)
    assert np.isnan([found.low, found.high]).all()
    often = mean_interval(np.tile(change_P, 3), np.tile(weights_P, 3), np.arange(12) // 2, 200)
    assert (often.point, often.units) == (2.5, 6)
    assert 1.0 <= often.low < often.high <= 4.0


def test_an_evaluation_on_too_few_texts_shows_points_and_says_why(setting: Setting):
    result = evaluate(*setting, PromptSet.from_rows([{"text": text} for text in "abcd"]), OFF, controls=5)
    assert result.notes[-1].startswith("4 independent texts: below 5 only points")
    rows = result.effects().to_pylist()
    assert all(math.isnan(row["low"]) and math.isnan(row["high"]) for row in rows)
    assert not any(row["finding"] for row in rows)


def test_a_contrast_of_translations_is_paired_by_unit():
    """Where every unit shifts both languages alike, their difference is known exactly."""
    rng = np.random.default_rng(1)
    unit_P = np.tile(np.arange(30), 2)
    shift_P = rng.normal(size=30)[unit_P] + np.repeat([1.0, 0.0], 30)
    weights_GP = np.stack([np.arange(60) < 30, np.arange(60) >= 30]).astype(float)
    found = contrast_interval(shift_P, weights_GP, unit_P, 500)
    assert (found.point, found.low, found.high, found.units) == pytest.approx((1.0, 1.0, 1.0, 30))


def test_intervals_of_the_evaluation_resample_parallel_texts_together(setting: Setting):
    rows = [{"text": text, "language": code, "parallel_id": f"u{n}"}
            for n, text in enumerate(("Where?", "Who is it?", "2 + 2")) for code in ("en", "xx")]  # fmt: skip
    result = evaluate(*setting, PromptSet.from_rows(rows), OFF, controls=0)
    assert result.units == [0, 0, 1, 1, 2, 2]
    (row,) = [r for r in result.effects().to_pylist() if r["measure"] == "log_perplexity"]
    assert (row["prompts"], row["units"]) == (6, 3)


def test_perplexity_is_the_exponential_of_its_logarithm(found):
    rows = {(r["variant"], r["measure"], r["group"]): r for r in found.effects("language").to_pylist()}
    for group in ("all", "en", "xx"):
        log, own = (rows["profile", name, group] for name in ("log_perplexity", "perplexity"))
        assert own["base"] == pytest.approx(math.exp(log["base"]))
        assert own["change"] == pytest.approx(own["steered"] / own["base"] - 1)
        assert own["low"] == pytest.approx(math.exp(log["low"]) - 1, nan_ok=True)
        assert own["finding"] == log["finding"]


def test_a_dose_table_has_effect_side_effect_and_draws(setting: Setting):
    make = doses_of_experts({"rule": "off"}, [(0, 1), (2, 4), (2, 6)])
    prompts = PromptSet.from_rows(ROWS)
    curve = dose_curve(*setting, prompts, make, [0, 1, 3], controls=2)
    assert list(curve.variants) == ["0", "1", "1 random 1", "1 random 2", "3", "3 random 1", "3 random 2"]
    rows = dose_table(curve, "language", target="xx").to_pylist()
    assert [(r["dose"], r["draw"], r["role"], r["group"]) for r in rows[:4]] == [
        (0, None, "effect", "xx"), (0, None, "side effect", "others"),
        (1, None, "effect", "xx"), (1, None, "side effect", "others"),
    ]  # fmt: skip
    assert len(rows) == 14
    table = evaluate(*setting, prompts, make(3), controls=0).effects("language").to_pylist()
    (alone,) = [r for r in table if (r["measure"], r["group"]) == ("log_perplexity", "xx")]
    (last,) = [r for r in rows if (r["dose"], r["draw"], r["role"]) == (3, None, "effect")]
    assert (last["change"], last["low"]) == pytest.approx(
        (alone["change"], alone["low"]), abs=1e-5, nan_ok=True
    )
    (english,) = [r for r in table if (r["measure"], r["group"]) == ("log_perplexity", "en")]
    (side,) = [r for r in rows if (r["dose"], r["draw"], r["role"]) == (3, None, "side effect")]
    assert side["change"] == pytest.approx(english["change"], abs=1e-5)
    plain = dose_table(curve).to_pylist()
    assert {(r["role"], r["measure"]) for r in plain} == {("effect", "log_perplexity"), ("side effect", "kl")}
    with pytest.raises(ValueError, match="no prompt has language 'de'; there are en, xx"):
        dose_table(curve, "language", target="de")
    with pytest.raises(ValueError, match="there is no measure 'beauty'; there are log_perplexity"):
        dose_table(curve, effect="beauty")


def test_a_dose_is_read_from_its_name():
    assert dose_of("0.5") == (0.5, None)
    assert dose_of("1e-05 random 3") == (1e-05, 3)
    assert dose_of("profile") is None
    assert dose_of("-") is None


def test_the_ranking_of_a_profile_is_the_order_of_its_rules():
    rules = [
        {"rule": "off", "layers": [2], "experts": [7, 1]},
        {"rule": "off", "layers": [0], "experts": [3]},
    ]
    assert cells_of(Steering(rules)) == [(2, 1), (2, 7), (0, 3)]

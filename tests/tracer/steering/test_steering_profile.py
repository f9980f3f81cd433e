"""Profiles: JSON in and out, forgiving in names, strict in values."""

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_olmoe

from moescope.store.schema import RouterSpec
from moescope.tracer import Steering, record_routing, save_routing
from moescope.tracer.errors import SteeringError
from moescope.tracer.steering.check import problems_with
from moescope.tracer.steering.median_ratios import median_ratios
from moescope.tracer.steering.rules import KINDS

EVERY = [
    {"rule": "off", "layers": [3], "experts": [7]},
    {"rule": "zero", "experts": [1], "renormalise": True},
    {"rule": "on", "experts": [2], "margin": 3.5, "span": "prompt"},
    {"rule": "low", "experts": [2, 4], "stream": "encoder"},
    {"rule": "bias", "experts": [0], "lambda": 0.5, "span": {"from": 3, "to": 9}},
    {"rule": "bias", "experts": [0], "absolute": -2.0},
    {"rule": "keep_only", "experts": [0, 1, 2]},
    {"rule": "scale", "experts": "all", "beta": 0.5},
    {"rule": "top_k", "m": 2, "renormalize": False},
    {"rule": "top_p", "q": 0.9},
    {"rule": "prune_ratio", "mu": {"0": 0.3, "1": 0.4}},
    {"rule": "null_experts", "m": 4, "c": -1.5, "k": 6},
    {"rule": "temperature", "τ": 2.0},
    {"rule": "vector", "delta": {"2": [0.1, -0.1]}},
    {"rule": "mask", "mask": "mask.parquet", "trace": "my-trace"},
    {"rule": "replay", "trace": "my-trace", "weights": "recorded"},
    {"rule": "top_k", "m": 1, "theta": "theta.safetensors"},
    {"rule": "prune_ratio", "mu": 0.5, "protect": 0.02},
    {"rule": "temperature", "tau": 0.1, "threshold": 0.001},
]


def test_every_rule_survives_json():
    steering = Steering(EVERY, name="all", model="some/model")
    assert {rule["rule"] for rule in EVERY} == set(KINDS)
    assert Steering.from_json(json.dumps(steering.to_json())) == steering
    assert Steering.from_json(steering.to_json()) == steering
    assert Steering(steering.to_json()["rules"]).rules == steering.rules


def test_the_canonical_form():
    steering = Steering([{"rule": "bias", "layer": 2, "expert": 5, "λ": 0.5}], name="n")
    assert steering.to_json() == {
        "version": 1,
        "name": "n",
        "model": "",
        "rules": [{"rule": "bias", "layers": [2], "experts": [5], "amount": 0.5, "absolute": False}],
    }


def test_experts_by_layer_become_one_rule_a_layer():
    steering = Steering([{"rule": "off", "experts": {"3": [7], "5": [1, 2]}}])
    assert [(rule.layers, rule.experts) for rule in steering.rules] == [((3,), (7,)), ((5,), (1, 2))]


def test_numbers_may_come_from_numpy_and_torch():
    scores = np.array([0.1, 0.9, 0.4, 0.8])
    plain = Steering([{"rule": "scale", "layers": [2], "experts": [1, 3], "amount": 0.5}])
    top = np.argsort(scores)[-2:]
    for experts, layers, amount in [
        (top, np.array([2]), np.float32(0.5)),
        (list(top), np.int64(2), 0.5),
        (torch.tensor([1, 3]), torch.tensor([2]), np.float64(0.5)),
    ]:
        rule = {"rule": "scale", "layers": layers, "experts": experts, "amount": amount}
        assert Steering([rule]) == plain
        assert json.loads(json.dumps(Steering([rule]).to_json())) == plain.to_json()
    for wrong in (np.array([1.5]), torch.tensor([False, True]), [torch.tensor(True)], [np.int64(-1)]):
        with pytest.raises(SteeringError, match="experts must be a whole number"):
            Steering([{"rule": "off", "experts": wrong}])


def test_a_vector_may_be_called_amount():
    assert Steering([{"rule": "vector", "amount": [0.5, 1]}]) == Steering(
        [{"rule": "vector", "delta": [0.5, 1]}]
    )


def test_a_profile_is_saved_and_read(tmp_path):
    path = tmp_path / "profile.json"
    steering = Steering(EVERY, name="Überraschung")
    steering.save(path)
    assert Steering.from_json(path) == steering
    assert Steering.from_json(str(path)) == steering


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"rule": "of", "experts": [1]}, "there is no rule 'of'; there are off, zero"),
        ({"experts": [1]}, "there is no rule None"),
        ({"rule": "off"}, "off needs experts"),
        ({"rule": "off", "experts": [1], "amount": 2}, "off has no field 'amount'"),
        ({"rule": "off", "experts": "1,2"}, "experts must be a list of numbers or all"),
        ({"rule": "off", "experts": [-1]}, "experts must be a whole number from 0"),
        ({"rule": "off", "experts": [1.5]}, "experts must be a whole number from 0"),
        ({"rule": "off", "experts": [1], "layers": True}, "layers must be"),
        ({"rule": "bias", "experts": [1]}, "bias needs an amount"),
        ({"rule": "bias", "experts": [1], "amount": float("nan")}, "bias needs an amount"),
        ({"rule": "scale", "experts": [1], "amount": "2"}, "scale needs an amount"),
        ({"rule": "bias", "experts": [1], "amount": 1, "lambda": 2}, "bias gives amount twice"),
        ({"rule": "temperature", "tau": 0}, "a number above 0"),
        ({"rule": "temperature", "tau": 1, "threshold": 1.5}, "threshold must be a number from 0 to 1"),
        ({"rule": "prune_ratio", "mu": 1, "protect": -0.1}, "protect must be a number from 0 to 1"),
        ({"rule": "top_k", "m": 1, "theta": 3}, "theta must be the path of a file"),
        ({"rule": "mask"}, "mask must be the path of a Parquet file"),
        ({"rule": "top_k", "m": 1.5}, "a whole number from 1"),
        ({"rule": "top_k", "m": 1, "experts": [2]}, "top_k acts on all experts"),
        ({"rule": "top_k", "m": 1, "renormalise": "no"}, "renormalise must be true or false"),
        ({"rule": "null_experts", "m": 2}, "top_k must be a whole number"),
        ({"rule": "vector", "vector": [1, "a"]}, "vector must be a list of finite numbers"),
        ({"rule": "off", "experts": [1], "span": "later"}, "span must be"),
        (
            {"rule": "off", "experts": [1], "span": {"from": 5, "to": 2}},
            r"\(off\): .*no token.*5 to 2",
        ),
        ({"rule": "off", "experts": [1], "span": {"from": 5, "to": 5}}, "no token"),
        ({"rule": "off", "experts": [1], "span": {"from": -1}}, "span must be"),
        ({"rule": "off", "experts": []}, r"\(off\): experts is empty"),
        ({"rule": "bias", "experts": {"2": []}, "amount": 1}, "experts is empty"),
        ({"rule": "off", "experts": [1], "layers": []}, "layers is empty"),
        ({"rule": "off", "experts": {"1": [2]}, "layers": [3]}, "either layers, or experts by layer"),
        ("off", "a rule is an object"),
    ],
)
def test_a_rule_that_makes_no_sense_is_named_by_its_number(rule, message):
    with pytest.raises(SteeringError, match=r"rule 2\b.*" + message):
        Steering([EVERY[0], rule])


@pytest.mark.parametrize(
    "data",
    ["{", "[1", "/nowhere/profile.json", {"rules": "off"}, {"name": "x"}, 3, {"version": 2, "rules": []}],
)
def test_what_is_no_profile_is_refused_in_one_line(data):
    with pytest.raises(SteeringError) as error:
        Steering.from_json(data)
    assert "\n" not in str(error.value)


def test_sums_keep_order_and_names():
    a, b = Steering([EVERY[0]], name="a", model="m"), Steering([EVERY[1]], name="b")
    assert [rule.rule for rule in (a + b).rules] == ["off", "zero"]
    assert ((a + b).name, (a + b).model) == ("a + b", "m")
    assert not Steering()
    assert a


def test_medians_fill_in_ratios():
    steering = Steering([{"rule": "prune_ratio"}, EVERY[0]]).with_ratios({0: 0.25})
    assert steering.rules[0].amount_in(0) == 0.25
    assert steering.rules[1] == Steering([EVERY[0]]).rules[0]


def test_every_rule_with_all_its_names_is_documented():
    page = (Path(__file__).parents[3] / "docs" / "steering.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert set(rows) == set(KINDS)
    for name, kind in KINDS.items():
        assert f"| {kind.point} | {kind.summary} |" in rows[name]
        assert all(f"`{word}`" in rows[name] for word in (*kind.amount, *kind.options))


def test_ratios_are_the_medians_of_a_trace(tmp_path):
    torch.manual_seed(0)
    model: Any = tiny_olmoe(num_experts_per_tok=3)
    with torch.no_grad(), record_routing(model) as routing:
        model(torch.arange(4, 64).reshape(3, 20))
    ratios = median_ratios(save_routing(routing, tmp_path / "t", samples=3))
    assert sorted(ratios) == [0, 1, 2]
    for layer, ratio in ratios.items():
        rows = routing.weights(layer)
        assert rows is not None
        expected = statistics.median(float(b) / float(a) for a, b, _ in rows.half())
        assert ratio == pytest.approx(expected, rel=1e-3)
    assert Steering([{"rule": "prune_ratio"}]).with_ratios(ratios).validate(model) == []


def test_a_rule_by_layers_keeps_its_number_in_messages():
    spec = RouterSpec(layer=3, num_experts=4, top_k=2, router="r")
    profile = Steering(
        [
            {"rule": "off", "experts": {"3": [1], "5": [2], "7": [3]}},
            {"rule": "off", "layers": [3], "experts": [9]},
        ]
    )
    said = problems_with(profile.rules, [spec])
    assert [text.split(" ")[1] for text in said] == ["1", "1", "2"]
    twice = problems_with(profile.rules + profile.rules[:1], [spec])
    assert [text.split(" ")[1] for text in twice] == ["2", "3", "4"]

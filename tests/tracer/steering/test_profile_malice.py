"""Profiles that no person would write: refused in a sentence, or read as what they say, and never anything else."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.tracer.errors import LONGEST, SteeringError, TracerError
from moescope.tracer.steering.profile import Steering
from moescope.tracer.steering.rules import KINDS

HUGE = 10**400
REFUSED: dict[str, dict[str, Any]] = {
    "a digit that is no number": {"rule": "off", "layers": ["²"], "experts": [1]},
    "of another script": {"rule": "off", "layers": ["٣"], "experts": [1]},
    "400 digits": {"rule": "off", "layers": ["1" * 400], "experts": [1]},
    "a huge layer": {"rule": "off", "layers": [2**40], "experts": [1]},
    "a huge expert": {"rule": "off", "layers": [1], "experts": [HUGE]},
    "layers in layers": {"rule": "off", "experts": {"3": {"3": [1]}}},
    "layers as an object": {"rule": "off", "layers": {"3": 1}, "experts": [1]},
    "a huge λ": {"rule": "bias", "experts": [1], "amount": HUGE},
    "1e308": {"rule": "bias", "experts": [1], "amount": 1e308},
    "τ of nearly nothing": {"rule": "temperature", "amount": 1e-320},
    "a huge μ": {"rule": "prune_ratio", "amount": 1e200},
    "a huge m": {"rule": "top_k", "amount": 10**30},
    "a huge logit": {"rule": "null_experts", "amount": 1, "logit": math.inf},
    "not a number": {"rule": "null_experts", "amount": 1, "logit": math.nan},
    "a huge vector": {"rule": "vector", "vector": [1e308, 1.0]},
    "a huge whole number in a vector": {"rule": "vector", "vector": [HUGE]},
    "a huge span": {"rule": "off", "experts": [1], "span": {"from": 0, "to": 2**70}},
    "a far first position": {"rule": "off", "experts": [1], "span": HUGE},
    "a name as long as a file": {"rule": "x" * 70_000, "experts": [1]},
    "a field as long as a file": {"rule": "off", "experts": [1], "y" * 70_000: 1},
    "experts as long as a file": {"rule": "off", "experts": "z" * 70_000},
}


@pytest.mark.parametrize("rule", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_sentence(rule: dict[str, Any]) -> None:
    with pytest.raises(SteeringError, match=r"^rule 1") as told:
        Steering.from_json({"version": 1, "rules": [rule]})
    assert len(str(told.value)) < 600


def test_what_is_large_and_meant_is_read() -> None:
    rules = [
        {"rule": "bias", "layers": ["3"], "experts": ["1"], "amount": 1e9},
        {"rule": "off", "experts": {"3": [1]}, "span": {"from": 0, "to": 2**31 - 1}},
        {"rule": "vector", "vector": [0.0, 1e-40, -2.5]},
    ]
    bias, off, vector = Steering.from_json({"version": 1, "rules": rules}).rules
    assert (bias.layers, bias.experts, bias.amount) == ((3,), (1,), 1e9)
    assert (off.layers, off.experts) == ((3,), (1,))
    assert vector.options["vector"] == (0.0, 1e-40, -2.5)


def test_no_error_is_longer_than_a_screen() -> None:
    assert len(str(TracerError("x" * 70_000))) < LONGEST + 10


NASTY = st.one_of(
    st.sampled_from(
        ["²", "٣", "all", "prompt", "1" * 400, "\x1b[31m", "a\n", True, None, -1, 2**31, 2**63, HUGE]
    ),
    st.sampled_from([1e308, 1e-320, math.inf, -math.inf, math.nan, -0.0, 0.5]),
    st.integers(-3, 40),
    st.text(max_size=4),
)
VALUES = st.recursive(
    NASTY,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["3", "²", "from", "to", "phase", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)
FIELDS = ("layers", "experts", "amount", "span", "stream", "renormalise", "vector", "logit", "top_k", "note", "theta",
          "mask", "protect", "threshold")  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(KINDS)), st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
def test_any_profile_is_refused_or_survives_its_own_json(kind: str, fields: dict[str, Any]) -> None:
    try:
        read = Steering.from_json({"version": 1, "rules": [{"rule": kind} | fields]})
    except SteeringError:
        return
    again = Steering.from_json(json.loads(json.dumps(read.to_json(), allow_nan=False)))
    assert again.rules == read.rules
    for rule in read.rules:
        amounts = rule.amount.values() if isinstance(rule.amount, dict) else [rule.amount]
        assert all(amount is None or amount == 0 or 1e-30 <= abs(amount) <= 1e30 for amount in amounts)
        assert all(0 <= number < 2**31 for number in (*(rule.layers or ()), *(rule.experts or ())))


@pytest.mark.parametrize(
    "text",
    [
        '{"rules": [{"rule": "off", "experts": {"3": [1], "03": [2]}}]}',
        '{"rules": [{"rule": "off", "layer": 0, "layers": [1], "experts": [1]}]}',
        '{"rules": [{"rule": "off", "experts": [4], "experts": [5]}]}',
        '{"rules": [], "rules": [{"rule": "off", "experts": [5]}]}',
    ],
)
def test_what_is_given_twice_is_refused_and_nothing_of_it_lost(text):
    with pytest.raises(SteeringError, match="twice"):
        Steering.from_json(text)


def test_a_profile_that_is_nested_without_end_is_one_line():
    with pytest.raises(SteeringError, match="deeply"):
        Steering.from_json('{"rules": ' + "[" * 200_000 + "]" * 200_000 + "}")

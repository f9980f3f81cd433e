"""Every kind of rule has its place on the Steer page, with the fields that it takes, and words in the list of rules."""

import json
import re
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from moescope.app import ASSETS
from moescope.app.screens.steer.board import BRUSHES
from moescope.app.steering.edit import made_at, states
from moescope.app.steering.rule_words import rule_group
from moescope.store.schema import RouterSpec
from moescope.tracer.steering.read import read_rules
from moescope.tracer.steering.rules import KINDS

SPEC = RouterSpec(layer=0, num_experts=8, top_k=2, router="gate")
EVERY = pytest.mark.parametrize("name", list(KINDS))


def example(name):
    (rule,) = read_rules([{"rule": name, "layers": [0], **KINDS[name].example(SPEC)}])
    return rule


def made_by_the_form(name):
    """Run in a Streamlit script: the form of one kind, and what it answers."""
    import json

    import streamlit as st

    from moescope.app.screens.steer import forms
    from moescope.tracer.steering.rules import KINDS

    forms.ask(KINDS[name], "form", k=2)
    amount, options = forms.answered(KINDS[name], "form")
    st.text(json.dumps({"rule": name} | ({} if amount is None else {"amount": amount}) | options))


@EVERY
def test_it_stands_at_exactly_one_place(name):
    places = [place for place in ("board", "layers", "learn", "compare", "file") if name in made_at(place)]
    assert places == [KINDS[name].place]
    assert (name in BRUSHES) == (KINDS[name].place == "board")
    assert KINDS[name].experts == (KINDS[name].place == "board")


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].place in ("board", "layers")])
def test_its_form_makes_a_rule_that_is_read_back(name):
    app = AppTest.from_function(made_by_the_form, args=(name,)).run()
    assert not app.exception
    asked = json.loads(app.text[0].value) | ({"experts": [1]} if KINDS[name].experts else {})
    (rule,) = read_rules([asked])
    assert rule.rule == name
    assert len(app.number_input) + len(app.toggle) == (KINDS[name].number is not None) + sum(
        bool(option.label) for option in KINDS[name].options.values()
    )


@pytest.mark.parametrize("name", made_at("board"))
def test_the_board_shows_where_it_acts(name):
    rule = example(name)
    shown = states([rule], [SPEC])
    named = set(rule.experts or range(8))
    steered = set(range(8)) - named if KINDS[name].masks == "others" else named
    assert {expert for _, _, expert in shown} == steered
    script = (ASSETS / "switchboard.js").read_text()
    (drawn,) = re.findall(r"const STATES = (\[.*?\]);", script)
    assert set(shown.values()) <= set(json.loads(drawn))
    assert not states([replace(rule, **KINDS[name].still(SPEC))], [SPEC])


@EVERY
def test_the_list_of_rules_says_it_in_words(name):
    assert rule_group([example(name)]).startswith(name)

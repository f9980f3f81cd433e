"""Symbolic-MoE: equal profiles have equal chances, better ones better; routing is by question."""

import math

import pytest

from moescope.sample_data.gallery.whole_models import chances


def test_models_with_equal_scores_have_equal_chances():
    profile = {"sum": 4, "count": -1}
    assert chances({"a": profile, "b": dict(profile), "c": dict(profile)}, ["sum"]).tolist() == [1 / 3] * 3


def test_the_chances_of_a_worked_example():
    """Positive scores 4 and 2, so shares 2/3 and 1/3. For `sum` the scores per question are 4/4 and −2/4: suitability
    2/3 and −1/6, a difference of 5/6, at temperature .5 odds of exp(5/3)."""
    found = chances({"a": {"sum": 4, "count": 0}, "b": {"sum": -2, "count": 2}}, ["sum"])
    assert found[0] / found[1] == pytest.approx(math.exp(5 / 3))
    assert found.sum() == pytest.approx(1)


def test_each_kind_of_question_recruits_its_specialist_first(made):
    trace = made("whole_models")
    names = trace.manifest.settings["measured"]["experts"]
    kinds = {row["prompt_id"]: dict(row["tags"])["kind"] for row in trace.prompts().to_pylist()}
    right = {"sum": "calculator", "reverse": "writer", "count": "reader"}
    events = trace.events(stream="models").to_pylist()
    first = [names[str(event["experts"][0])] == right[kinds[event["prompt_id"]]] for event in events]
    assert len(events) == trace.num_prompts
    assert sum(first) > 0.8 * len(first)

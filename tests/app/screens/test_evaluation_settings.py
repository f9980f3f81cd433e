"""The prompts of the open trace as a set to evaluate on, and the half of them that is held out."""

from __future__ import annotations

from moescope.app.screens.steer.evaluation_settings import prompts_of, second_half
from moescope.store import open_trace, sample_dir
from moescope.tracer import PromptSet


def test_the_prompts_of_a_trace_are_those_it_was_made_of():
    found = prompts_of(open_trace(sample_dir() / "trace"))
    given = {prompt.id: prompt for prompt in PromptSet.from_file(sample_dir() / "udhr.csv")}
    assert len(found) == len(given)
    for prompt in found:
        made = given[prompt.id]
        assert (prompt.text, prompt.language, prompt.parallel_id) == (
            made.text,
            made.language,
            made.parallel_id,
        )
        assert prompt.tags == made.tags


def test_translations_stay_in_one_half():
    prompts = prompts_of(open_trace(sample_dir() / "trace"))
    kept = second_half(prompts)
    inside = {prompt.parallel_id for prompt in kept}
    outside = {prompt.parallel_id for prompt in prompts} - inside
    assert 0.3 < len(inside) / (len(inside) + len(outside)) < 0.7
    assert len(kept) == sum(prompt.parallel_id in inside for prompt in prompts)

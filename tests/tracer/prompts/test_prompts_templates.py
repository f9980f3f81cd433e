"""Templates: every combination once, slot values kept as tags, mistakes named."""

from __future__ import annotations

from collections import Counter

import pytest

from moescope.tracer.prompts.expand import expand_file, expand_template
from moescope.tracer.prompts.prompt import PromptSetError
from moescope.tracer.prompts.prompt_set import PromptSet
from moescope.tracer.prompts.write import write_prompts

TEMPLATE = """
template = "What happened{time}{place}?"
contrast = "place"
[slots]
time = [" yesterday", " in 1989"]
place = [{ text = " in Beijing", tag = "beijing" }, { text = " in Paris", tag = "paris" },
         { text = "", tag = "nowhere" }]
[columns]
language = "en"
"""


@pytest.fixture
def expanded(tmp_path):
    path = tmp_path / "events.toml"
    path.write_text(TEMPLATE)
    return expand_file(path)


def test_every_combination_stands_there_once_with_its_tags(expanded):
    assert [p.text for p in expanded] == [
        "What happened yesterday in Beijing?",
        "What happened yesterday in Paris?",
        "What happened yesterday?",
        "What happened in 1989 in Beijing?",
        "What happened in 1989 in Paris?",
        "What happened in 1989?",
    ]
    assert Counter(p.tags["time"] for p in expanded) == {"yesterday": 3, "in 1989": 3}
    assert Counter(p.group for p in expanded) == {"beijing": 2, "paris": 2, "nowhere": 2}
    assert {p.parallel_id for p in expanded} == {"yesterday", "in 1989"}
    assert {p.language for p in expanded} == {"en"}


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_an_expanded_set_survives_its_file(expanded, tmp_path, ending):
    path = write_prompts(expanded, tmp_path / f"events.{ending}")
    assert PromptSet.from_file(path).prompts == expanded.prompts


MANY = [str(number) for number in range(2000)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"slots": {"a": ["x"]}}, "key 'template'"),
        ({"template": "{b}", "slots": {"a": ["x"]}}, "no slot 'b'"),
        ({"template": "{a.__class__}", "slots": {"a": ["x"]}}, "no slot 'a.__class__'"),
        ({"template": "hello", "slots": {"a": ["x"]}}, "slot 'a': the template does not use it"),
        ({"template": "{a", "slots": {"a": ["x"]}}, "key 'template'"),
        ({"template": "{a}", "slots": {"a": ["x", "x"]}}, "same value twice"),
        ({"template": "{a}", "slots": {"a": []}}, "must be a list"),
        ({"template": "{a}", "slots": {"a": [3]}}, "a value is a text"),
        ({"template": "{a}", "slots": {"a": ["x"]}, "contrast": "b"}, "key 'contrast'"),
        ({"template": "{a}", "slot": {}}, "unknown key 'slot'"),
        ({"template": "{a}{b}", "slots": {"a": MANY, "b": MANY}}, "4,000,000 prompts, more than"),
    ],
)  # fmt: skip
def test_a_wrong_template_is_named(spec, message):
    with pytest.raises(PromptSetError, match=message):
        expand_template(spec, name="t.toml")


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("template = ")
    with pytest.raises(PromptSetError, match=r"bad\.toml: not TOML"):
        expand_file(path)
    with pytest.raises(PromptSetError, match="cannot be read"):
        expand_file(tmp_path / "missing.toml")

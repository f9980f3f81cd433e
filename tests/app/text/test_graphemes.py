"""From the tokens of byte-level vocabularies back to characters."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.app.text.graphemes import Run, characters, lone_bytes, part_of, runs, trimmed, whole
from moescope.app.text.literal import context_html
from moescope.store import open_trace, sample_dir
from moescope.store.arrow import pc
from moescope.tracer.tokens.token_text import readable


def test_bytes_of_one_character_are_one_run_of_their_tokens():
    assert runs(["す", "⟨E3⟩⟨81⟩", "⟨B9⟩て", " a"]) == [
        Run("す", 0, 1, [3]), Run("べて", 1, 3, [2, 4]), Run(" a", 3, 4, [2]),
    ]  # fmt: skip
    assert characters(["す", "⟨E3⟩⟨81⟩", "⟨B9⟩て"]) == ["す", "べ", "べて"]


@pytest.mark.parametrize("character", ["é", "e\u0301", "نَ", "ष्यों", "👨\u200d👩\u200d👧"])
def test_a_character_of_several_code_points_is_one(character: str):
    tokens = [readable(bytes([byte])) for byte in character.encode()]
    (run,) = runs(tokens)
    assert run == Run(character, 0, len(tokens), [1] * len(tokens))
    assert characters(tokens) == [character] * len(tokens)


def test_bytes_that_belong_to_nothing_stay_bytes_and_special_tokens_stay_apart():
    assert characters(["⟨E3⟩", "⟨81⟩x⟨E4⟩⟨B8⟩", "⟨AD⟩"]) == ["⟨E3⟩", "⟨81⟩x中", "中"]
    assert [run.text for run in runs(["e", "\u0301"], apart=[True, False])] == ["e", "\u0301"]
    assert lone_bytes("a⟨E3⟩⟨81⟩") == "E3 81"
    assert lone_bytes("⟨token 9⟩") == lone_bytes("中") == ""


@given(st.text(min_size=1, max_size=30), st.data())
def test_the_text_comes_back_from_any_cut_into_tokens(text: str, data):
    encoded = text.encode("utf-8", "replace")
    cuts = sorted(data.draw(st.sets(st.integers(0, len(encoded)))) | {0, len(encoded)})
    tokens = [readable(encoded[a:b]) for a, b in itertools.pairwise(cuts)]
    found = runs(tokens)
    assert "".join(run.text for run in found) == encoded.decode()
    assert [(run.first, run.end) for run in found] == [
        (first, end) for first, end in zip([0, *[r.end for r in found]], [r.end for r in found], strict=False)
    ]
    assert sum(sum(run.num_bytes) for run in found) == len(encoded)


@pytest.mark.parametrize("language", ["ar", "he", "hi", "ja", "ko", "zh", "el", "vi"])
def test_prompts_of_the_sample_read_as_their_texts(language: str):
    trace = open_trace(sample_dir() / "trace")
    tokens = trace.view("prompt-tokens", prompt_id=f"udhr-01/{language}")
    tokens = tokens.filter(pc.equal(tokens["layer"], 0))
    prompts = trace.prompts()
    text = prompts.filter(pc.equal(prompts["prompt_id"], f"udhr-01/{language}"))["text"][0].as_py()
    assert "".join(run.text for run in runs(tokens["token"].to_pylist())) == text


def test_in_a_context_the_character_of_a_token_is_marked_with_its_bytes_beneath():
    assert whole("尊⟨E5⟩⟨8E⟩", "⟨B3⟩", "と") == ("尊", "厳", "と")
    row = {
        "before": "尊⟨E5⟩⟨8E⟩",
        "token": "⟨B3⟩",
        "after": "と",
        "weight": None,
        "language": "ja",
        "prompt_id": "p",
    }
    assert "尊<mark>厳</mark>と" in context_html(row)
    assert "bytes B3 of it" in context_html(row)


def test_a_token_of_single_bytes_is_a_part_of_the_character_that_they_make():
    assert part_of("尊⟨E5⟩⟨8E⟩", "⟨B3⟩", "と") == "厳"
    assert part_of("a ", "⟨E5⟩", "⟨8E⟩⟨B3⟩と") == "厳"
    assert part_of("", "⟨E5⟩", "⟨8E⟩") == "⟨E5⟩"  # cut off: nobody knows of what
    assert trimmed("⟨8E⟩⟨B3⟩と", "語⟨E5⟩⟨8E⟩") == ("と", "語")

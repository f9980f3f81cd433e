"""Corpus, tokenizer, training text, prompt sets and trace of the miniature build."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from moescope.store import open_trace


def test_text_for_other_systems_is_left_out(build):
    markup = (
        'Press <span class="k"><span id="a" class="switchinline"><span hidden="true" id="m" class="MAC">'
        '<span class="key">Command</span></span><span hidden="true" id="d"><span>Ctrl</span></span>'
        "</span></span>+C &amp; go."
    )
    assert build.corpus.plain_text(markup) == "Press Ctrl+C & go."


@pytest.mark.parametrize(
    ("text", "language", "english"),
    [
        ("Select the cell that contains the value of this row", "de", True),
        ("Wählen Sie die Zelle mit dem Wert aus, to be sure", "de", False),
        ("Opens the dialog", "ja", True),
        ("Math の数式", "ja", False),
        ("Calc", "ru", False),
    ],
)
def test_left_over_english_is_told_from_translations(build, text, language, english):
    assert build.corpus.reads_as_english(text, language) is english


def test_nothing_held_out_is_trained_on(build, made):
    corpus = pd.read_parquet(made / "corpus.parquet")
    unseen, seen = corpus[corpus["held_out"]], corpus[~corpus["held_out"]]
    assert 0.08 < len(unseen) / len(corpus) < 0.25
    assert not set(unseen["english"]) & set(seen["english"])
    for language in ("en", "ru", "ja"):
        assert not set(unseen[unseen["language"] == language]["text"]) & set(
            seen[seen["language"] == language]["text"]
        )


def test_a_text_that_another_key_holds_out_is_not_trained_on(build):
    held, trained = (
        next(w for w in map(str, range(1000)) if build.corpus.is_held_out(w, 0.5) is side)
        for side in (True, False)
    )
    rows = [("1", "de", "Gleich", held), ("2", "de", "Gleich", trained), ("3", "de", "Anders", trained)]
    table = build.corpus.split(pd.DataFrame(rows, columns=["key", "language", "text", "english"]), 0.5)
    assert table[["key", "held_out"]].to_numpy().tolist() == [["1", True], ["3", False]]


def test_untranslated_segments_are_dropped(made):
    corpus = pd.read_parquet(made / "corpus.parquet")
    foreign = corpus[corpus["language"] != "en"]
    assert not any(foreign["text"] == foreign["english"])
    assert not any(corpus.duplicated(["language", "text"]))


def test_tokens_decode_to_the_corpus(made):
    corpus = pd.read_parquet(made / "corpus.parquet")
    tokenizer = AutoTokenizer.from_pretrained(made / "tokenizer")
    tokens = np.load(made / "tokens.npz")
    for split in ("train", "held_out"):
        pieces = np.split(tokens[f"{split}_ids"], tokens[f"{split}_starts"][1:-1])
        assert all(piece[0] == tokenizer.eos_token_id and (piece[1:] != piece[0]).all() for piece in pieces)
        texts = tokenizer.batch_decode([piece[1:] for piece in pieces])
        assert texts == corpus["text"].iloc[tokens[f"{split}_rows"]].tolist()


@given(text=st.text(max_size=40))
@settings(max_examples=50, deadline=None)
def test_tokenizer_loses_nothing(made, text):
    tokenizer = AutoTokenizer.from_pretrained(made / "tokenizer")
    text = text.replace("<|endoftext|>", "")
    assert tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False) == text


def test_stream_balances_languages_by_the_square_root(build, made):
    total = 60_000
    stream = build.stream.token_stream(made, total, seed=1)
    tokens = np.load(made / "tokens.npz")
    language = pd.read_parquet(made / "corpus.parquet")["language"].to_numpy()[tokens["train_rows"]]
    pieces = np.split(tokens["train_ids"], tokens["train_starts"][1:-1])
    owner = {piece.tobytes(): who for piece, who in zip(pieces, language, strict=True)}
    bounds = np.flatnonzero(stream == 0)
    drawn, size = dict.fromkeys(("en", "ru", "ja"), 0), dict.fromkeys(("en", "ru", "ja"), 0)
    for piece in np.split(stream, bounds[1:])[:-1]:
        drawn[owner[piece.tobytes()]] += len(piece)
    for who, length in zip(language, np.diff(tokens["train_starts"]), strict=True):
        size[who] += length
    roots = {who: np.sqrt(size[who]) for who in size}
    for who in drawn:
        assert drawn[who] / len(stream) == pytest.approx(roots[who] / sum(roots.values()), abs=0.02)


def test_prompt_sets_are_well_formed(made):
    seen = pd.read_parquet(made / "corpus.parquet").query("not held_out")
    for name in ("udhr", "help_parallel", "contrast"):
        table = pd.read_csv(made / f"{name}.csv", dtype=str, keep_default_na=False)
        assert table["id"].is_unique
        assert {len(set(group["language"])) for _, group in table.groupby("parallel_id")} == {3}
        assert not set(table["text"]) & set(seen["text"])
    contrast = pd.read_csv(made / "contrast.csv")
    assert len({len(part) for _, part in contrast.groupby(["language", "group"])}) == 1


def test_the_recorded_trace_holds_every_prompt(build, made):
    build.record_trace.record(made, "trace")
    trace = open_trace(made / "trace")
    prompts = pd.read_csv(made / "udhr.csv")
    assert sorted(trace.prompts().column("prompt_id").to_pylist()) == sorted(prompts["id"])
    assert trace.num_events == 2 * trace.num_tokens
    assert str(made) not in (made / "trace" / "trace.json").read_text()


def test_pairs_are_of_similar_length_and_used_once(build):
    pairs = build.prompts.pair_by_length(
        ["a" * 10, "b" * 20, "c" * 90], ["x" * 22, "y" * 100, "z" * 21, "w" * 9]
    )
    assert sorted(map(sorted, pairs)) == [["a" * 10, "w" * 9], ["b" * 20, "x" * 22], ["c" * 90, "y" * 100]]


def test_articles_that_do_not_line_up_are_refused(build, monkeypatch, tmp_path):
    toy = build.prompts.toy_declaration
    page = {"ja": lambda text: text.replace("<p>", "<p>x</p><p>", 1)}
    monkeypatch.setattr(build.prompts, "toy_declaration", lambda who: page.get(who, str)(toy(who)))
    with pytest.raises(ValueError, match="ja: its articles"):
        build.prompts.udhr(build.recipe.MINI, tmp_path, True)

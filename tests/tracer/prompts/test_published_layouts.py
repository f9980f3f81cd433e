"""Prompt files as others publish them: each becomes the prompt that its authors mean, and the user is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moescope.tracer.prompts.look import look_at
from moescope.tracer.prompts.prompt import PromptSetError
from moescope.tracer.prompts.prompt_set import PromptSet
from moescope.tracer.prompts.write import write_prompts

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
LM_EVAL = {"doc_id": 3, "doc": {"q": "2+2?"}, "target": "4", "resps": [["4"]], "exact_match": 1.0}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ShareGPT": (
        {"id": "c", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]},
        {"id": "c", "messages": (("user", "Hello"), ("assistant", "Hi"))},
    ),
    "Alpaca": (
        {"instruction": "Translate.", "input": "The house.", "output": "Das Haus."},
        {"text": "Translate.\n\nThe house.", "tags": {"output": "Das Haus."}},
    ),
    "Alpaca without input": ({"instruction": "Sing.", "input": "", "output": "La"}, {"text": "Sing."}),
    "OpenAI batch": (
        {"custom_id": "r", "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": "m", "messages": MESSAGES}},
        {"id": "r", "messages": (("system", "Be brief."), ("user", "Hi")), "tags": {"model": "m"}},
    ),
    "OpenAI batch of completions": (
        {"custom_id": "r", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Once"}},
        {"id": "r", "text": "Once", "messages": None},
    ),
    "lm-eval samples": (
        LM_EVAL | {"arguments": {"gen_args_0": {"arg_0": "Q: 2+2?\nA:", "arg_1": {"until": ["\n"]}}}},
        {"id": "3", "text": "Q: 2+2?\nA:", "tags": {"target": "4", "exact_match": "1.0"}},
    ),
    "lm-eval choices": (
        LM_EVAL | {"target": "1", "arguments": [["Q?", " no"], ["Q?", " yes"]], "filter": "none"},
        {"text": "Q?", "choices": (" no", " yes"), "answer": 1},
    ),
    "FLORES+": (
        {"id": 7, "iso_639_3": "deu", "iso_15924": "Latn", "text": "Hallo", "split": "dev"},
        {"id": "7-de", "parallel_id": "7", "language": "de", "text": "Hallo", "tags": {"split": "dev"}},
    ),
    "FLORES+ script": (
        {"id": 7, "iso_639_3": "cmn", "iso_15924": "Hant", "text": "你好"},
        {"language": "zh-Hant", "parallel_id": "7"},
    ),
    "Belebele": (
        {"link": "u", "question_number": 1, "flores_passage": "P.", "question": "Q?", "mc_answer1": "a",
         "mc_answer2": "b", "mc_answer3": "c", "mc_answer4": "d", "correct_answer_num": "2", "dialect": "eng_Latn"},
        {"text": "P.\nQuestion: Q?\nAnswer:", "choices": (" a", " b", " c", " d"), "answer": 1, "language": "en"},
    ),
    "MGSM": (
        {"question": "6 mal 7?", "answer": None, "answer_number": 42, "equation_solution": None},
        {"text": "6 mal 7?", "tags": {"target": "42"}},
    ),
    "ARC": (
        {"question": "Which?", "choices": {"text": ["cat", "ant"], "label": ["A", "B"]}, "answerKey": "B"},
        {"text": "Which?\nAnswer:", "choices": (" cat", " ant"), "answer": 1},
    ),
    "verl": (
        {"prompt": [{"role": "user", "content": "2+2?"}], "data_source": "gsm8k"},
        {"text": "2+2?", "messages": (("user", "2+2?"),), "tags": {"data_source": "gsm8k"}},
    ),
    "parts": (
        {"messages": [
            {"role": "user", "content": [{"type": "text", "text": "What"}, {"type": "text", "text": "now?"}]}
        ]},
        {"messages": (("user", "What\nnow?"),)},
    ),
    "labels": (
        {"text": "Which? Answer:", "choices": {"text": [" cat", " ant"], "label": ["1", "2"]}, "answer": "2"},
        {"choices": (" cat", " ant"), "answer": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_published_layout_becomes_the_prompt_that_is_meant(tmp_path: Path, name: str, kind: str) -> None:
    row, expected = CASES[name]
    path = tmp_path / f"p.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps(row))
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    (prompt,) = prompts = PromptSet.from_file(path)
    assert {key: getattr(prompt, key) for key in expected} == expected
    layout = name.split(" ")[0].replace("ARC", "questions")
    known = any(word in name for word in ("verl", "parts", "labels"))
    assert known != any(note.startswith(f"read as {layout}") for note in prompts.notes)
    again = write_prompts(prompts, tmp_path / "again.jsonl")
    assert PromptSet.from_file(again).prompts == prompts.prompts


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
         "part of type 'image_url'"),
        ({"conversations": [{"value": "x"}]}, "turn 1 needs `from` and `value` (ShareGPT)"),
        ({"custom_id": "a", "body": {}}, "body has neither messages nor a prompt (OpenAI batch)"),
        (LM_EVAL | {"arguments": [["A", " x"], ["B", " y"]]}, "its choices have different contexts"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused_by_name(row: dict[str, Any], said: str) -> None:
    with pytest.raises(PromptSetError) as caught:
        PromptSet.from_rows([row])
    assert said in str(caught.value)


def test_our_own_columns_win_over_a_layout() -> None:
    rows = [{"text": "T", "question": "Q", "instruction": "I", "conversations": "c"}]
    (prompt,) = prompts = PromptSet.from_rows(rows)
    assert (prompt.text, prompts.notes) == ("T", ())


# Tables


def test_a_quotation_mark_in_tsv_is_a_character_and_what_is_written_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    path.write_text('id\ttext\n1\t"Good morning,\n2\tshe said.\n3\tHe left"\n4\t"All of it."\n')
    texts = ['"Good morning,', "she said.", 'He left"', '"All of it."']
    assert [prompt.text for prompt in PromptSet.from_file(path)] == texts
    for more in ([], ["tab\there"], ["two\nlines"]):
        rows = [{"text": text} for text in texts + more]
        written = write_prompts(PromptSet.from_rows(rows), tmp_path / "again.tsv")
        assert [prompt.text for prompt in PromptSet.from_file(written)] == texts + more


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "id;text\n1;Guten Tag, Welt\n", "separated by semicolons (';')"),
        ("a.csv", "id;text;language\n1;Tag;de\n", "separated by semicolons (';')"),
        ("a.tsv", "Janet hat 16 Eier. Wie viele bleiben?\t13\nEin Zug fährt. Tempo?\t30\n", "is there a header line?"),
        ("a.json", '{"text": "a"}\n{"text": "b"}\n', "a file of one object a line is called .jsonl"),
        ("a.csv", ",text\n0,a\n", "column 1 has no name (pandas writes its index like this"),
    ],
)  # fmt: skip
def test_messages_that_help(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(PromptSetError) as caught:
        PromptSet.from_file(tmp_path / name)
    assert said in str(caught.value)


def test_a_look_tells_what_a_file_seems_to_be_and_how_to_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("id;text;language;topic\n1;Grüße, Welt;de;x\n2;Au revoir;fr;y\n".encode("cp1252"))
    look = look_at(path)
    assert (look.format, look.encoding, look.delimiter, look.prompts) == ("csv", "cp1252", ";", 2)
    assert look.options == {"encoding": "cp1252", "delimiter": ";"}
    assert look.roles == {"id": "id", "text": "text", "language": "language", "topic": "tag"}
    assert look.first[0]["text"] == "Grüße, Welt"
    assert len(look.notes) == 2
    assert PromptSet.from_file(path, **look.options)[0].text == "Grüße, Welt"
    with pytest.raises(PromptSetError):
        PromptSet.from_file(path)
    path.write_bytes("text\nhi\n".encode("utf-16"))
    assert (look_at(path).encoding, look_at(path).prompts) == ("utf-16", 1)
    (tmp_path / "b.jsonl").write_text(json.dumps(CASES["Alpaca"][0]))
    assert look_at(tmp_path / "b.jsonl").layout == "Alpaca"
    (tmp_path / "c.csv").write_text("colour\nred\n")
    assert "no column 'text'" in (look_at(tmp_path / "c.csv").problem or "")


def test_a_parquet_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 3_000_000
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array(["x" * 1000]))
    pq.write_table(
        pa.table({"text": column}), tmp_path / "bomb.parquet", row_group_size=rows, compression="zstd"
    )
    monkeypatch.setattr("pyarrow.parquet.ParquetFile.iter_batches", lambda *a, **k: pytest.fail("decoded"))
    with pytest.raises(PromptSetError, match="it declares 3,000,000 rows; at most 2,000,000 are read"):
        PromptSet.from_file(tmp_path / "bomb.parquet")


def test_choices_read_alike_from_a_cell_and_from_a_list(tmp_path):
    rows = tmp_path / "mmlu.jsonl"
    rows.write_text(json.dumps({"question": "2+2?", "choices": ["3", "4"], "answer": 1}))
    for number, cell in enumerate(('"[""3"", ""4""]"', "3|4")):
        table = tmp_path / f"mmlu{number}.csv"
        table.write_text(f"question,choices,answer\n2+2?,{cell},1\n")
        assert PromptSet.from_file(table).prompts == PromptSet.from_file(rows).prompts


def test_digits_of_lm_eval_are_the_index_of_the_choice(tmp_path):
    arguments = [["2+2=", f" {n}"] for n in (2, 4, 6, 8)]
    file = tmp_path / "samples.jsonl"
    file.write_text(json.dumps({"doc_id": 0, "arguments": arguments, "target": "2"}))
    (prompt,) = PromptSet.from_file(file).prompts
    assert prompt.choices is not None
    assert prompt.answer is not None
    assert prompt.choices[prompt.answer] == " 6"

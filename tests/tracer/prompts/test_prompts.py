"""Prompt sets: every format reads the same, every mistake is named with its row and column."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moescope.tracer.prompts.prompt import PromptSetError
from moescope.tracer.prompts.prompt_set import PromptSet

ROWS = [
    {"id": "a", "text": 'He said "hi",\nthen left', "language": "en", "group": "x", "parallel_id": "1",
     "topic": "talk"},
    {"id": "b", "text": "=SUM(A1) <b>&amp;</b> $x$ \u202eרтл\u2028 x", "language": "he", "group": "y",
     "parallel_id": "1", "topic": "odd"},
]  # fmt: skip


def write(path, rows):
    kind = path.suffix[1:]
    if kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        mark = "," if kind == "csv" else "\t"
        cells = [list(rows[0])] + [list(row.values()) for row in rows]
        quoted = (mark.join('"' + cell.replace('"', '""') + '"' for cell in line) for line in cells)
        path.write_text("\n".join(quoted) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_reads_the_same_prompts(tmp_path, kind):
    prompts = PromptSet.from_file(write(tmp_path / f"p.{kind}", ROWS))
    assert [(p.id, p.text, p.language, p.group, p.parallel_id, dict(p.tags)) for p in prompts] == [
        (r["id"], r["text"], r["language"], r["group"], r["parallel_id"], {"topic": r["topic"]}) for r in ROWS
    ]
    assert prompts.fingerprint == PromptSet.from_rows(ROWS).fingerprint
    assert prompts.tag_names == ["topic"]
    assert prompts.languages == ["en", "he"]


def test_plain_text_is_a_prompt_a_line(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffone\r\ntwo \u2028 still two\r\n\r\n".encode())
    prompts = PromptSet.from_file(path)
    assert [(p.id, p.text) for p in prompts] == [("1", "one"), ("2", "two \u2028 still two")]


def test_a_byte_order_mark_and_blank_lines_at_the_end_are_no_mistake(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes("\ufefftext\nhi\n\n\n".encode())
    assert [p.text for p in PromptSet.from_file(path)] == ["hi"]


@pytest.mark.parametrize("name", ["text", "prompt", "input", "Text"])
def test_the_text_column_has_aliases(name):
    assert PromptSet.from_rows([{name: "hi"}])[0].text == "hi"


def test_an_alias_beside_the_text_is_a_tag():
    prompt = PromptSet.from_rows([{"text": "hi", "input": "other"}])[0]
    assert (prompt.text, dict(prompt.tags)) == ("hi", {"input": "other"})


def test_values_become_text_tags_and_missing_ones_none():
    present = {"n": 3, "share": 0.5, "ok": True, "list": [1, "ü"]}
    row = {"text": "hi", **present, "none": None, "nan": float("nan"), "empty": ""}
    tags = {"n": "3", "share": "0.5", "ok": "true", "list": '[1, "ü"]'}
    assert PromptSet.from_rows([row])[0].tags == tags


def test_choices_as_list_or_between_bars_and_the_answer_as_index_or_text(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text('text,choices,answer\nA?,"[""x"", ""y|z""]",1\nB?,red|green,green\nC?, 4| 5,\n')
    assert [(p.choices, p.answer) for p in PromptSet.from_file(path)] == [
        (("x", "y|z"), 1),
        (("red", "green"), 1),
        ((" 4", " 5"), None),
    ]


def test_messages_need_no_text():
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    for cell in (messages, json.dumps(messages)):
        prompt = PromptSet.from_rows([{"id": 7, "messages": cell}])[0]
        assert (prompt.id, prompt.text, prompt.chat) == ("7", "be kind\nhi", messages)


def test_a_very_long_cell_is_read(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("text\n" + "x" * 300_000 + "\n")
    assert len(PromptSet.from_file(path)[0].text) == 300_000


def test_the_fingerprint_sees_every_column_and_the_order():
    base = [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}]
    sets = [base, base[::-1], base[:1]]
    choices = {"choices": "p|q"}
    extra = ({"tag": "1"}, {"language": "en"}, {"completion": "z"}, choices, {**choices, "answer": 0})
    sets += [[{**base[0], **more}, base[1]] for more in extra]
    assert len({PromptSet.from_rows(rows).fingerprint for rows in sets}) == len(sets)


def test_a_data_frame_row_is_read():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": [1, 2], "text": ["a", "b"], "choices": [["x", "y"]] * 2})
    frame["answer"] = [0, 1]
    prompts = PromptSet.from_rows(frame.to_dict("records"))
    assert [(p.id, p.choices, p.answer) for p in prompts] == [("1", ("x", "y"), 0), ("2", ("x", "y"), 1)]


def test_a_prompt_set_is_made_of_whatever_holds_one(tmp_path):
    (tmp_path / "p.csv").write_text("id,text\n1,a\n")
    made = PromptSet.from_rows([{"id": "1", "text": "a"}])
    for source in (tmp_path / "p.csv", str(tmp_path / "p.csv"), [{"id": 1, "text": "a"}], ["a"], made):
        assert PromptSet.of(source).prompts == made.prompts


CSV = [
    ("", r"p\.csv: the file is empty"),
    ("text\n", r"p\.csv: holds no prompts"),
    ("a;text\n1;hi\n", r"row 1 \(line 2\): no column 'text' .*delimiter"),
    ("id,words\n1,hi\n", r"no column 'text' \(columns: 'id', 'words'\)"),
    ("id,text\n1,hi\n2\n", r"row 2 \(line 3\): has 1 columns, the header has 2: column 'text' has no cell"),
    ("id,text\n1,hi\n2,a,b\n", r"row 2 \(line 3\): has 3 columns"),
    ("id,text\n1,hi\n\n2,x\n", r"row 2 \(line 3\): empty row"),
    ("id,text\n1,hi\n , \n", r"row 2 \(line 3\): empty row"),
    (
        "id,text\n1,hi\n1,x\n",
        r"row 2 \(line 3\), column 'id': duplicate id '1' \(first in row 1 \(line 2\)\)",
    ),
    ("id,text\n1,\n", r"row 1 \(line 2\), column 'text': is empty"),
    ('id,text\n1,"two\nlines"\n,x\n', r"row 2 \(line 4\), column 'id': is empty"),
    ('text\n"hi\n', r"row 1 \(line 2\): a quotation mark opens a cell that never ends"),
    ("text,text\nhi,ho\n", r"header: column 'text' occurs twice"),
    (",text\n0,hi\n", r"header: column 1 has no name"),
    ("text,choices,answer\nhi,a|b,2\n", r"row 1 \(line 2\), column 'answer': 2 is not an index of 2 choices"),
    ("text,choices,answer\nhi,a|b,-1\n", r"column 'answer': -1 is not an index"),
    ("text,choices,answer\nhi,a|b,c\n", r"column 'answer': 'c' is neither"),
    ("text,choices,answer\nhi,,1\n", r"column 'answer': it has an answer but no choices"),
    ("text,choices\nhi,a\n", r"column 'choices': needs at least two"),
    ("text,choices\nhi,a||b\n", r"column 'choices': holds an empty"),
    ("text,choices\nhi,a|a\n", r"column 'choices': holds the same choice twice"),
    ('text,choices\nhi,"[""a"""\n', r"column 'choices': not JSON"),
    ('text,messages\nhi,"[{}]"\n', r"column 'messages': message 1 needs"),
]


@pytest.mark.parametrize(("content", "message"), CSV)
def test_a_wrong_csv_is_named(tmp_path, content, message):
    path = tmp_path / "p.csv"
    path.write_text(content)
    with pytest.raises(PromptSetError, match=message):
        PromptSet.from_file(path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.csv", "text\nhi".encode("utf-16"), "is UTF-16 encoded; save it as UTF-8"),
        ("p.csv", "text\nhi".encode("utf-16-le"), "looks like UTF-16"),
        ("p.csv", "text\nhi".encode("utf-32"), "is UTF-32 encoded"),
        (
            "p.csv",
            b'id,text\n1,"a\nb"\n2,na\xefve\n',
            r"row 2 \(line 4\), column 'text', byte 5: 0xEF is not UTF-8",
        ),
        ("p.tsv", b"id\tt\xe9xt\n1\ta\n", r"header \(line 1\), column 2, byte 5: 0xE9 is not UTF-8"),
        ("p.csv", b"text\na,\xff\n", r"row 1 \(line 2\), column 2, byte 3: 0xFF is not UTF-8"),
        ("p.txt", b"abc\nna\xefve\n", r"p\.txt, line 2, byte 3: 0xEF is not UTF-8"),
        ("p.jsonl", b'{"text": "a"}\n{"text": }\n', r"p\.jsonl, line 2, character 10: not JSON"),
        ("p.jsonl", b'{"text": "a"}\n\n{"text": "b"}\n', r"p\.jsonl, line 2: empty row"),
        ("p.jsonl", b'{"text": "a"}\n[1]\n', r"line 2: expected an object .*found a list"),
        ("p.jsonl", b'{"text": 5}\n', r"line 1, column 'text': must be text, found 5"),
        ("p.jsonl", b'{"text": "\\ud800"}\n', r"line 1, column 'text': character 1 is half of a surrogate"),
        ("p.jsonl", b'{"text": "a", "text": "b"}\n', r"line 1: an object names 'text' twice"),
        ("p.jsonl", b'{"text": "a", "id": 1.5}\n', r"column 'id': must be text or a whole number"),
        ("p.json", b'{"a": 1}', r"p\.json: expected a list of prompts, found an object"),
        ("p.json", b"[\n1\n]", r"p\.json, row 1: expected an object"),
        ("p.json", b'[{"text": "a"},\n{"text" "b"}]', r"p\.json, line 2, character 9: not JSON"),
        ("p.json", b"[" * 100_000, r"p\.json: nested too deeply"),
        ("p.json", b'[{"text": "a", "n": 1' + b"0" * 5000 + b"}]", r"p\.json: not JSON"),
        ("p.parquet", b"PAR1 not really", r"p\.parquet: not a readable Parquet"),
        ("p.txt", b"a\n \nb", r"p\.txt, line 2, column 'text': is empty"),
        ("p.doc", b"", "unknown kind of prompt set '.doc'"),
        ("missing.csv", None, "missing.csv: cannot be read"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, name, data, message):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(PromptSetError, match=message):
        PromptSet.from_file(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a\0b"}, "row 1, column 'text': character 2 is a NUL"),
        ({"text": "a", "group": "g\0"}, "column 'group': character 2 is a NUL"),
        ({"text": "a", "language": "All human beings " * 4}, "column 'language': 'All human beings "),
        ({"text": "a", "id": "1", "prompt_id": "2"}, "column 'prompt_id': column 'id' holds the ids already"),
    ],
)
def test_what_would_break_a_trace_later_is_refused_at_once(row, message):
    with pytest.raises(PromptSetError) as error:
        PromptSet.from_rows([row])
    assert message in str(error.value)


@pytest.mark.parametrize(
    "code",
    [
        "en",
        "pt-BR",
        "zh-Hant-TW",
        "eng_Latn",
        "x-klingon",
        "i-default",
        "de-1996",
        "Portuguese",
        "Chinese (Simplified)",
        None,
    ],
)
def test_language_codes_are_taken_as_they_are_written(code):
    assert PromptSet.from_rows([{"text": "a", "language": code}])[0].language == code

"""Malformed prompt files: read right, or refused with a message that names the file; never another error."""

from __future__ import annotations

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moescope.tracer.prompts.prompt import PromptSetError
from moescope.tracer.prompts.prompt_set import PromptSet
from moescope.tracer.prompts.write import write_prompts

FUZZ = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
KINDS = ["csv", "tsv", "json", "jsonl", "txt", "parquet"]
COLUMNS = [
    "id",
    "text",
    "prompt",
    "choices",
    "answer",
    "messages",
    "completion",
    "language",
    "tags",
    "other",
    "",
]
SCRAPS = [
    "id,text\n", "text\n", '"', '""', ",", "\t", "\n", "\r\n", "\r", "|", "[", "]", "{", "}", ":", "\\ud800",
    '{"text": "a"}', '[{"text": "a", "choices": ["x", "y"], "answer": 1}]', "null", "NaN", "1e999", "\x00",
    "é", "\ufeff", "\u2028", "a|b", "-1",
]  # fmt: skip
scraps = st.lists(st.sampled_from(SCRAPS)).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass"))
cells = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(SCRAPS),
    st.lists(st.text(max_size=3), max_size=3),
    st.lists(st.dictionaries(st.sampled_from(["role", "content"]), st.text(max_size=3)), max_size=2),
)  # fmt: skip


def read(path):
    """The prompts of a file, or None where it was refused as it should be."""
    try:
        prompts = PromptSet.from_file(path)
    except PromptSetError as error:
        refusal = str(error)
    else:
        check(prompts)
        return prompts
    assert path.name in refusal
    assert "\n" not in refusal
    return None


def check(prompts):
    ids = [prompt.id for prompt in prompts]
    assert len(set(ids)) == len(ids) > 0
    for prompt in prompts:
        assert prompt.text.strip() or prompt.messages
        assert prompt.answer is None or (prompt.choices and 0 <= prompt.answer < len(prompt.choices))
        json.dumps(prompt.to_json(), ensure_ascii=False).encode()


@FUZZ
@given(kind=st.sampled_from(KINDS), data=st.one_of(st.binary(max_size=60), scraps))
def test_any_bytes(tmp_path, kind, data):
    path = tmp_path / f"fuzz.{kind}"
    path.write_bytes(data)
    read(path)


@FUZZ
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(COLUMNS), cells, max_size=5), max_size=4),
    lines=st.booleans(),
)
def test_any_json_rows(tmp_path, rows, lines):
    path = tmp_path / ("fuzz.jsonl" if lines else "fuzz.json")
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    read(path)


@FUZZ
@given(rows=st.lists(st.lists(st.text(max_size=6), max_size=4), max_size=5))
def test_any_table_reads_as_the_csv_module_does_or_is_refused(tmp_path, rows):
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["id", "text"], *rows])
    path = tmp_path / "fuzz.csv"
    path.write_text(buffer.getvalue(), encoding="utf-8", errors="surrogatepass", newline="")
    prompts = read(path)
    if prompts is not None:
        kept = [row for row in rows if row]
        assert [(prompt.id, prompt.text) for prompt in prompts] == [(row[0].strip(), row[1]) for row in kept]


@FUZZ
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 1200))
def test_any_damage_to_parquet(tmp_path, position, value, cut):
    buffer = io.BytesIO()
    table = pa.table(
        {"id": ["1", "2"], "text": ["one", "two"], "choices": [["a", "b"], None], "answer": [1, None]}
    )
    pq.write_table(table, buffer)
    data = bytearray(buffer.getvalue())
    data[position % len(data)] = value
    path = tmp_path / "fuzz.parquet"
    path.write_bytes(bytes(data[:cut] if cut < len(data) and cut % 3 == 0 else data))
    read(path)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
labels = texts.map(str.strip).filter(bool)


@FUZZ
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"id": labels, "text": texts.filter(str.strip)},
            optional={
                "language": st.sampled_from(["en", "pt-BR", "zh_Hant"]),
                "completion": texts,
                "topic": texts,
                "choices": st.just(["x|y", "[z"]),
            },
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda row: row["id"],
    ),
    kind=st.sampled_from(["csv", "tsv", "jsonl", "parquet"]),
)
def test_what_is_written_reads_back_equal(tmp_path, rows, kind):
    prompts = PromptSet.from_rows(rows)
    path = write_prompts(prompts, tmp_path / f"round.{kind}")
    assert PromptSet.from_file(path).prompts == prompts.prompts

"""The command as a user or a script meets it: output, exit codes, one line when it fails."""

import csv
import io
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from moescope.app.cli.commands import COMMANDS, cli, run
from moescope.store import open_trace
from moescope.store.write.synthetic import Synthetic, write_synthetic

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "trace"
    write_synthetic(str(folder), Synthetic(prompts=24, languages=3, layers=2, experts=8, top_k=2))
    return folder


def call(capsys, *words):
    """Exit code, stdout and stderr of a call in this process."""
    code = run([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def commands():
    """Every command, with the words that call it."""
    context = click.Context(cli, info_name="moescope", **cli.context_settings)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield [name], command
        if isinstance(command, click.Group):
            for sub, inner in command.commands.items():
                yield [name, sub], inner


@pytest.mark.parametrize(("words", "command"), [pytest.param(w, c, id=" ".join(w)) for w, c in commands()])
def test_every_command_explains_itself_with_an_example(words, command):
    done = CliRunner().invoke(cli, [*words, "--help"])
    assert done.exit_code == 0
    assert "Example:" in done.output
    assert f"moescope {' '.join(words)}" in done.output
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{' '.join(words)} {option.opts} says nothing"


def test_reference_is_up_to_date():
    made = runpy.run_path(str(ROOT / "docs" / "cli_reference.py"))["reference"]()
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == made, "run: python docs/cli_reference.py"


def test_help_does_not_import_torch():
    code = "import sys; from moescope.app.cli.commands import run; run(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_info_tells_a_machine_everything(capsys, trace):
    code, out, _ = call(capsys, "info", trace, "--json")
    facts = json.loads(out)
    opened = open_trace(trace)
    assert code == 0
    assert (facts["prompts"], facts["tokens"], facts["events"]) == (
        24,
        opened.num_tokens,
        opened.num_tokens * 2,
    )
    assert facts["state"] == "complete"
    assert [router["layer"] for router in facts["routers"]] == [0, 1]
    assert facts["bytes"] == sum(path.stat().st_size for path in trace.rglob("*.parquet"))


def test_view_writes_the_same_numbers_in_every_format(capsys, trace, tmp_path):
    expected = open_trace(trace).view("load", by="language", where={"language": ["en", "de"]})
    options = ["view", trace, "load", "--by", "language", "--where", "language=en,de"]
    code, out, _ = call(capsys, *options, "--format", "json")
    assert code == 0
    assert json.loads(out) == expected.to_pylist()
    assert call(capsys, *options, "--out", tmp_path / "load.csv")[0] == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "load.csv").read_text())))
    assert [int(row["count"]) for row in rows] == expected["count"].to_pylist()
    assert [row["language"] for row in rows] == expected["language"].to_pylist()
    assert call(capsys, *options, "--out", tmp_path / "load.parquet")[0] == 0
    assert pq.read_table(tmp_path / "load.parquet").to_pylist() == expected.to_pylist()


def test_json_is_short_for_the_format_and_may_stand_anywhere(capsys, trace):
    expected = open_trace(trace).view("load", by="language").to_pylist()
    for words in (["--json", "--by", "language"], ["--by", "language", "--json"]):
        code, out, err = call(capsys, "view", trace, "load", *words)
        assert (code, json.loads(out), err) == (0, expected, "")
    code, out, _ = call(capsys, "sql", trace, "SELECT 1 AS one", "--json")
    assert (code, json.loads(out)) == (0, [{"one": 1}])


def test_a_file_holds_what_stdout_shows(capsys, trace, tmp_path):
    """A script that reads a CSV must find its first column by name: no byte order mark."""
    for form in ("table", "json", "csv"):
        call(capsys, "view", trace, "load", "--format", form, "--out", tmp_path / "load")
        _, out, _ = call(capsys, "view", trace, "load", "--format", form)
        assert (tmp_path / "load").read_text(encoding="utf-8") == out
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [int(row["layer"]) for row in rows] == open_trace(trace).view("load")["layer"].to_pylist()


def test_parquet_goes_into_a_pipe(trace):
    words = ["-m", "moescope.app", "view", str(trace), "load", "--format", "parquet"]
    done = subprocess.run([sys.executable, *words], capture_output=True, check=True)
    assert pq.read_table(io.BytesIO(done.stdout)).to_pylist() == open_trace(trace).view("load").to_pylist()


def test_files_in_and_out_are_told_to_a_machine(capsys, trace, tmp_path):
    code, out, _ = call(capsys, "export", trace, "--format", "jsonl", "--out", tmp_path / "tables", "--json")
    assert (code, json.loads(out)) == (0, {"out": str(tmp_path / "tables"), "format": "jsonl"})
    (tmp_path / "e.csv").write_text("sequence,step,layer,expert,weight\na,0,0,1,1.0\na,1,0,0,1.0\n")
    code, out, _ = call(capsys, "import", "neutral", tmp_path / "e.csv", "--out", tmp_path / "made", "--json")
    told = json.loads(out)
    assert (code, told["prompts"], told["tokens"], told["events"]) == (0, 1, 2, 2)


def test_view_options_take_flags_numbers_and_words(capsys, trace):
    code, out, _ = call(capsys, "view", trace, "load", "--layer=1", "--special", "false", "--format", "json")
    assert code == 0
    expected = open_trace(trace).view("load", layer=1, special=False)
    assert json.loads(out) == expected.to_pylist()


def test_a_view_may_be_called_as_in_python(capsys, trace):
    spelt = [call(capsys, "view", trace, name, "--json") for name in ("routing_entropy", "routing-entropy")]
    assert spelt[0] == spelt[1]
    assert spelt[0][0] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["view", "TRACE", "lod"], "there is no view 'lod'; there are: alignment"),
        (["view", "TRACE", "load", "--nope", "1"], "no option --nope; it has --by"),
        (["view", "TRACE", "load", "--layer", "one"], "takes a whole number"),
        (["view", "TRACE", "load", "--where", "language"], "write column=value"),
        (["view", "TRACE", "load", "--layer"], "--layer needs a value"),
        (["generate", "m", "p", "--compare"], "--compare needs --steer"),
        (["trace", "m", "p.csv"], "Missing option '--out'"),
        (["trace", "m", "p.csv", "--out", "t", "--capture", "all"], "it takes ids,weights"),
        (["export", "TRACE", "--format", "xml", "--out", "x"], "duckdb"),
        (["nonsense"], "No such command"),
        (["view", "TRACE", "nope", "--help"], "there is no view 'nope'; there are: alignment"),
        (
            ["view", "TRACE", "expert-tokens", "--layer", "1", "--expert", "1", "--limit", "-3"],
            "limit is -3; it takes",
        ),
        (
            ["view", "TRACE", "alignment", "--resamples", "1e8"],
            "--resamples is '1e8'; it takes a whole number",
        ),
        (
            ["view", "TRACE", "specialised-experts", "--tau", "nan"],
            "tau is nan; it takes a number from 0 to 1",
        ),
        (["sql", "TRACE", "SELECT 1", "--rows", "-1"], "rows is -1; it takes a whole number from 1"),
        (["sql", "TRACE", "SELECT 1", "--seconds", "nan"], "seconds is nan; it takes a number above 0"),
    ],
)
def test_wrong_usage_ends_with_two(capsys, trace, words, says):
    code, _, err = call(capsys, *[trace if word == "TRACE" else word for word in words])
    assert code == 2
    assert says in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["info", "NOWHERE"], "there is no such folder"),
        (["view", "TRACE", "load", "--layer", "9"], "no router at layer 9"),
        (["view", "TRACE", "load", "--by", "colour"], "no column or tag 'colour'"),
        (
            ["view", "TRACE", "load", "--where", "language=xx"],
            "no prompt has language 'xx'; there is: de, en, fr",
        ),
        (["info", "https://example.org/trace"], "a web address is not a folder"),
        (["sql", "TRACE", "DROP TABLE prompts"], "SELECT"),
        (["trace", "m", "NOWHERE/prompts.csv", "--out", "NOWHERE/t"], "No such file"),
    ],
)
def test_failure_is_one_line_and_ends_with_one(capsys, trace, tmp_path, words, says):
    names = {"TRACE": str(trace), "NOWHERE": str(tmp_path / "nowhere")}
    filled = [names.get(word, word.replace("NOWHERE", names["NOWHERE"])) for word in words]
    code, out, err = call(capsys, *filled)
    assert code == 1
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
    assert err.startswith("moescope: ")


def test_sql_answers_with_the_chosen_experts(capsys, trace):
    code, out, _ = call(capsys, "sql", trace, "SELECT count(*) AS n FROM selections", "--format", "json")
    assert code == 0
    assert json.loads(out) == [{"n": open_trace(trace).num_events * 2}]


@pytest.mark.parametrize(
    "words",
    [
        ["view", "load"],
        ["sql", "SELECT count(*) FROM prompts"],
        ["export", "--format", "csv", "--out", "OUT"],
    ],
)
def test_what_is_left_out_of_a_damaged_trace_is_said(capsys, trace, tmp_path, words):
    damaged = shutil.copytree(trace, tmp_path / "damaged")
    file = next((damaged / "rollups").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:100])
    command, *rest = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    _, _, err = call(capsys, command, damaged, *rest)
    assert err.startswith("warning: left out: ")
    assert file.name in err.splitlines()[0]


def test_python_dash_m_is_the_command(trace):
    command = [sys.executable, "-m", "moescope.app", "info", str(trace)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "24" in done.stdout


def test_a_selection_without_tokens_is_empty_and_says_so(capsys, trace):
    code, out, err = call(capsys, "view", trace, "load", "--phase", "decode", "--format", "json")
    assert (code, json.loads(out)) == (0, [])
    assert err == "note: No token has phase decode: there is nothing to measure.\n"


def test_maps_are_objects_and_intervals_are_text_in_every_format(capsys, trace, tmp_path):
    query = (
        "SELECT map {'seen': 'true'} AS tags, [map {'a': 1}] AS more, {'x': map {'b': 2}} AS deep, "
        "INTERVAL 1 DAY AS took, TIME '01:02:03' AS at, [INTERVAL 2 DAY] AS spans, "
        "map {1: 'one'} AS numbered, 'a'::BLOB AS bytes, "
        "'inf'::DOUBLE AS big, 12345678901234567890123456789::HUGEINT AS huge, 1.50::DECIMAL(9, 2) AS price"
    )
    code, out, err = call(capsys, "sql", trace, query, "--format", "json")
    assert code == 0, err
    (row,) = json.loads(out)
    assert row["tags"] == {"seen": "true"}
    assert row["more"] == [{"a": 1}]
    assert row["deep"] == {"x": {"b": 2}}
    assert row["numbered"] == {"1": "one"}
    assert row["big"] is None
    code, out, err = call(capsys, "sql", trace, query, "--format", "csv")
    assert code == 0, err
    (row,) = csv.DictReader(io.StringIO(out))
    assert json.loads(row["tags"]) == {"seen": "true"}
    assert json.loads(row["more"]) == [{"a": 1}]
    assert json.loads(row["deep"]) == {"x": {"b": 2}}
    assert row["took"] == "1 day"
    assert row["bytes"] == "61"
    code, _, err = call(capsys, "sql", trace, query, "--out", tmp_path / "row.parquet")
    assert code == 0, err
    code, out, err = call(capsys, "sql", trace, query)
    assert code == 0, err
    assert '{"seen": "true"}' in out
    assert "1 day" in out


def test_columns_align_as_wide_as_a_terminal_draws_them():
    from rich.cells import cell_len

    from moescope.app.cli.output import as_text

    table = pa.table({"token": ["日本語", "ab", "é"], "count": [1, 22, 333]})
    lines = as_text(table).splitlines()
    assert {cell_len(line) for line in lines} == {13}
    assert cell_len(as_text(pa.table({"token": ["語" * 50]}), 10).splitlines()[1]) <= 10


def test_a_tokenizer_with_code_of_its_own_never_runs(tmp_path, capsys, monkeypatch):
    """transformers would ask, and take a "y" on stdin for consent."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}})
    )
    (folder / "config.json").write_text(
        json.dumps({"model_type": "odd", "auto_map": {"AutoConfig": "evil.Evil"}})
    )
    row = {"prompt_token_ids": [1, 2], "token_ids": [3], "routed_experts": [[[0, 1]], [[1, 2]]]}
    (tmp_path / "r.jsonl").write_text(json.dumps(row))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    asked = [
        "import",
        "vllm",
        str(tmp_path / "r.jsonl"),
        "--out",
        str(tmp_path / "t"),
        "--tokenizer",
        str(folder),
    ]
    assert run(asked) == 1
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "t").exists()
    assert "it brings code of its own" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["1_0", "-1", "a", "", "99999999999"])
def test_numbers_of_layers_are_plain_numbers(tmp_path, given):
    assert run(["import", "vllm", "r.jsonl", "--out", str(tmp_path / "t"), "--layers", given]) == 2

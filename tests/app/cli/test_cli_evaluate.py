"""`moescope evaluate` on the bundled model: the numbers of `evaluate`, its controls beside them, its refusals."""

import csv
import json
import math

import pyarrow as pa
import pytest

from moescope.app.cli.commands import run
from moescope.app.cli.evaluate_table import for_people
from moescope.app.sentences.evaluation import number
from moescope.store import sample_dir
from moescope.tracer import PromptSet, Steering, load_model
from moescope.tracer.evaluate.effects import Evaluation
from moescope.tracer.evaluate.run import evaluate

RULES = [{"rule": "off", "layers": [5], "experts": [25, 3]}]
TEXTS = {"ja": ["設定を保存します。", "行を選択します。"], "en": ["Saves the settings.", "Selects the row."]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "off.json").write_text(json.dumps({"rules": RULES}))
    rows = [[t, code, f"u{n}"] for code, texts in TEXTS.items() for n, t in enumerate(texts)]
    with (folder / "prompts.csv").open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([["text", "language", "parallel_id"], *rows])
    (folder / "top.csv").write_text("layer,expert,score\n5,25,0.9\n7,25,0.8\n")
    (folder / "rules.json").write_text(json.dumps({"points": [r"\."]}))
    return folder


def call(capsys, files, *words, steer: str | None = "off.json"):
    """Exit code, stdout and stderr."""
    options = ["--steer", files / steer] if steer else []
    command = [
        "evaluate",
        sample_dir() / "model",
        files / "prompts.csv",
        *options,
        "--dtype",
        "float32",
        *words,
    ]
    code = run([str(word) for word in command])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_rows_are_those_of_evaluate(capsys, files, tmp_path):
    kept = tmp_path / "all.json"
    code, out, _ = call(capsys, files, "--target", "ja", "--format", "json", "--keep", kept)
    assert code == 0
    rows = json.loads(out)
    model, tokenizer = load_model(str(sample_dir() / "model"), dtype="float32")
    expected = evaluate(model, tokenizer, PromptSet.from_file(files / "prompts.csv"), Steering(RULES))
    table = expected.effects("language", target="ja").to_pylist()
    assert [(r["variant"], r["measure"], r["group"]) for r in rows] == [
        (r["variant"], r["measure"], r["group"]) for r in table
    ]
    assert [r["change"] for r in rows] == pytest.approx([r["change"] for r in table], abs=1e-6)
    assert [r["finding"] for r in rows] == [r["finding"] for r in table]
    assert {r["kind"] for r in rows} == {"profile", "random", "layers", "opposite"}
    again = Evaluation.from_json(json.loads(kept.read_text()))
    assert again.units == [0, 1, 0, 1]


def test_a_person_reads_every_control_beside_the_effect(capsys, files):
    code, out, _ = call(capsys, files, "--where", "language=ja")
    assert code == 0
    head, *lines = out.splitlines()
    for word in ("change (95 %)", "random × 5", "other layers", "opposite", "finding", "p draws", "units"):
        assert word in head
    assert {line.split()[0] for line in lines} == {"perplexity", "kl", "changed"}
    assert all(("%" in line) == line.startswith("perplexity") for line in lines)


def test_behaviour_is_a_measure_by_class(capsys, files):
    words = ("--max-new-tokens", 3, "--classes", files / "rules.json", "--controls", 0, "--format", "csv")
    code, out, err = call(capsys, files, *words)
    assert code == 0
    assert "note: no controls were run" in err
    rows = list(csv.DictReader(out.splitlines()))
    assert "behaviour: points" in {row["measure"] for row in rows}
    assert {row["finding"] for row in rows if row["measure"] == "kl"} == {"false"}


def test_a_dose_curve_by_a_ranking_and_by_amount(capsys, files, tmp_path):
    words = ("--dose", "experts=0,2", "--ranking", files / "top.csv", "--controls", 1, "--target", "ja")
    code, out, _ = call(capsys, files, *words, "--format", "json")
    assert code == 0
    rows = json.loads(out)
    assert [(r["dose"], r["draw"], r["role"]) for r in rows] == [
        (0, None, "effect"), (0, None, "side effect"), (2, None, "effect"), (2, None, "side effect"),
        (2, 1, "effect"), (2, 1, "side effect"),
    ]  # fmt: skip
    assert rows[0]["change"] == 0 < rows[2]["change"]
    (files / "bias.json").write_text(json.dumps({"rules": [{**RULES[0], "rule": "bias", "amount": 1}]}))
    doses = ("--dose", "amount=0.5,2", "--controls", 0, "--format", "json")
    _, out, _ = call(capsys, files, *doses, steer="bias.json")
    assert [r["dose"] for r in json.loads(out) if r["role"] == "effect"] == [0.5, 2]


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--by", "colour"], 2, "the prompts have no such column"),
        (["--target", "de"], 2, "language has en, ja"),
        (["--where", "language=de"], 1, "no prompt has language de"),
        (["--where", "language"], 2, "it takes column=value,value"),
        (["--dose", "experts=1.5"], 2, "it takes experts=1,2,4 or amount"),
        (["--dose", "amount=1"], 1, "no rule of the profile has an amount"),
        (["--dose", "experts=9"], 1, "the ranking has 2"),
        (["--ranking", "x.csv"], 2, "--ranking needs --dose"),
        (["--classes", "x.json"], 2, "--classes needs --max-new-tokens"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_a_line(capsys, files, words, code, reason):
    found, out, err = call(capsys, files, *words)
    assert (found, out) == (code, "")
    assert reason in err


def test_a_profile_is_needed(capsys, files):
    assert call(capsys, files, steer=None)[0] == 2


def test_without_an_interval_a_table_shows_the_point_alone():
    row = {"measure": "kl", "group": "all", "base": 0.0, "steered": 0.2, "change": 0.2, "draws": 2, "finding": False,
           "why": "too few prompts for an interval", "p_draws": 0.5, "units": 3}  # fmt: skip
    row |= dict.fromkeys(("low", "high", "random_low", "random_high", "layers_low", "layers_high"), math.nan)
    row |= {"layers": 0.1, "opposite": None, "opposite_low": None, "opposite_high": None}
    (shown,) = for_people(pa.Table.from_pylist([row])).to_pylist()
    assert (shown["change (95 %)"], shown["random × 2"], shown["other layers"]) == ("+0.2", "–", "+0.1")
    assert number(row, "kl") == "+0.200"

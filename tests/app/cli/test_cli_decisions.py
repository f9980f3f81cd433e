# pyright: reportMissingImports=false
"""The commands from a trace to a decision on a tiny model: what they write, and what they refuse in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tiny import character_tokenizer, tiny_olmoe
from transformers import AutoModelForCausalLM

from moescope.app.cli.commands import run
from moescope.store import open_trace
from moescope.store.expert_sheet import expert_sheet
from moescope.tracer import PromptSet, load_model, trace_prompts

ROWS = [
    {"id": f"{n}", "text": f"sentence number {n}", "language": "en" if n % 2 else "de"} for n in range(10)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `m`, another one `other`, the trace `plain` without and `weighed` with a sheet."""
    folder = tmp_path_factory.mktemp("decisions")
    for name, seed in (("m", 0), ("other", 1)):
        tiny_olmoe(seed).save_pretrained(folder / name)
        character_tokenizer().save_pretrained(folder / name)
    loaded = load_model(folder / "m")
    for name in ("plain", "weighed"):
        trace_prompts(
            loaded.model, loaded.tokenizer, PromptSet.from_rows(ROWS), folder / name, card=loaded.card
        )
    rows = [f"{layer},{expert},{expert + 1}" for layer in range(2) for expert in range(4)]
    (folder / "counts.csv").write_text("\n".join(["layer,expert,count", *rows]))
    assert run(["import", "counts", str(folder / "counts.csv"), "--out", str(folder / "counts")]) == 0
    words = ["weigh", str(folder / "m"), "--trace", str(folder / "weighed"), "--probe", "16", "--group", "8"]
    assert run(words) == 0
    return folder


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = run([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_weigh_writes_the_sheet_and_says_when_it_is_there(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = expert_sheet(open_trace(place / "weighed"))
    assert table is not None
    assert table.num_rows == 24
    assert table["block_change"].null_count == 0
    code, out, _ = call(
        capsys, "weigh", place / "m", "--trace", place / "weighed", "--probe", 16, "--group", 8
    )
    assert (code, out.startswith("nothing to do")) == (0, True)


@pytest.mark.parametrize("command", ["prune", "merge"])
def test_a_smaller_checkpoint_with_its_loss_beside_others(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words = [command, place / "m", "--trace", place / "weighed", "--keep", 0.5, "--random", 2, "--json"]
    code, out, _ = call(capsys, *words, "--out", tmp_path / "small")
    assert code == 0
    facts = json.loads(out)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "small").config.num_experts == 4
    row = facts["loss"][0]
    assert row["random least"] <= row["random"] <= row["random most"]
    assert {"reap"} <= set(row) or {"merged", "pruned by reap"} <= set(row)
    card = (tmp_path / "small" / "README.md").read_text()
    assert "4 " in card.splitlines()[0]
    assert "Fitted on 5 prompts" in card
    code, _, err = call(capsys, *words, "--out", tmp_path / "small")
    assert (code, err.count("\n")) == (1, 1)
    assert "is there already" in err


def test_recipes_name_modules_of_the_model(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bits", place / "weighed", "--budget", 2.5]
    code, _, err = call(capsys, *words, "--format", "gptqmodel", "--out", tmp_path / "q.json")
    assert code == 0, err
    recipe = json.loads((tmp_path / "q.json").read_text())
    assert any(name.count("model\\.layers\\.0\\.mlp\\.experts") for name in recipe["dynamic"])
    code, _, err = call(capsys, *words, "--format", "llm-compressor", "--out", tmp_path / "q.yaml")
    assert code == 0, err
    assert yaml.safe_load((tmp_path / "q.yaml").read_text())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("bits plain --out OUT", "moescope weigh MODEL --trace TRACE"),
        ("bits weighed --budget 1.5 --out OUT", "budget"),
        ("place weighed --devices 16 --out OUT", "16 devices"),
        ("place weighed --devices 3 --out OUT", "do not divide over 3 devices"),
        ("weigh other --trace plain", "whose weights differ"),
        ("prune other --trace weighed --out OUT", "whose weights differ"),
        ("merge other --trace weighed --out OUT", "weights differ"),
        ("prune m --trace plain --out OUT", "run moescope weigh"),
        ("merge m --trace plain --score gate --out OUT", "no similarity of outputs"),
        ("prune m --trace weighed --keep 0.1 --out OUT", "a token uses 2 experts"),
        ("merge m --trace weighed --keep 0.1 --out OUT", "a token uses 2 experts"),
        ("pick weighed --prompts 500 --out OUT", "10"),
        ("place weighed --method nonsense --out OUT", "there is no placement 'nonsense'"),
        ("place counts --devices 2 --out OUT", "how many layers the model has"),
        ("offload counts --out OUT", "The trace holds counts only"),
        ("pick counts --prompts 1 --out OUT", "does not hold the texts"),
    ],
)  # fmt: skip
def test_what_can_not_be_decided_is_refused_in_one_sentence(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    names = {name: place / name for name in ("m", "other", "plain", "weighed", "counts")} | {
        "OUT": tmp_path / "out"
    }
    code, out, err = call(capsys, *(names.get(word, word) for word in words.split()))
    assert (code, out) == (1, "")
    assert said in err, err
    assert len(err.strip().splitlines()) == 1, err
    assert not list(tmp_path.iterdir())
    assert expert_sheet(open_trace(place / "plain")) is None

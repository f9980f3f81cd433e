"""A checkpoint that lacks weights: refused by name, or loaded when allowed, and recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import character_tokenizer, tiny_olmoe

from moescope.app.cli.commands import run
from moescope.store import open_trace
from moescope.tracer import load_model, trace_prompts
from moescope.tracer.models.load_errors import ModelError

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_olmoe().save_pretrained(path)
    character_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def changed(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(change: Callable[[Weights], Weights], **config: Any) -> Path:
        path = Path(shutil.copytree(folder, tmp_path / "copy"))
        weights = load_file(path / "model.safetensors")
        save_file(change(weights), path / "model.safetensors", metadata={"format": "pt"})
        settings = json.loads((path / "config.json").read_text()) | config
        (path / "config.json").write_text(json.dumps(settings))
        return path

    return make


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if part not in name}


def renamed(weights: Weights) -> Weights:
    return {name.replace("mlp.gate.", "mlp.router."): value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (without(".1.mlp.gate."), {}, r"lacks 1 weight of OlmoeForCausalLM.*: model\.layers\.1\.mlp\.gate\.weight;"),
        (renamed, {}, r"lacks 3 weights.*model\.layers\.2\.mlp\.gate\.weight\. It holds 3 .*layers\.0\.mlp\.router"),
        (without(".1.mlp.experts.5.down"), {}, r"layers\.1\.mlp\.experts\.down_proj \(has 7 x .*, must have 8 x"),
        (without("nothing"), {"num_hidden_layers": 4}, r"model\.layers\.3\..* and 7 more"),
        (without("lm_head"), {}, r": lm_head\.weight;"),
        (
            lambda w: w | {"model.layers.0.mlp.experts.0.up_proj.weight_scale_inv": torch.ones(1)}, {},
            r"quantised \(model\.layers\.0\.mlp\.experts.*weight_scale_inv.*names no quantisation",
        ),
    ],
    ids=["absent", "renamed", "one expert", "more layers", "head", "scales"],
)  # fmt: skip
def test_a_checkpoint_that_lacks_weights_is_refused_by_their_names(changed, change, config, message):
    path = changed(change, **config)
    with pytest.raises(ModelError, match=message) as error:
        load_model(path)
    assert "\n" not in str(error.value)
    assert "--allow-missing" in str(error.value)


def test_what_is_allowed_is_recorded(changed, tmp_path):
    loaded = load_model(changed(without(".1.mlp.gate.")), allow_missing=True)
    assert loaded.card["missing_weights"] == ["model.layers.1.mlp.gate.weight"]
    assert "1 weight of" in loaded.notes[0]
    trace_prompts(loaded.model, loaded.tokenizer, ["Hi"], tmp_path / "t", card=loaded.card)
    card = open_trace(tmp_path / "t").manifest.model
    assert card["missing_weights"] == ["model.layers.1.mlp.gate.weight"]


def test_a_whole_checkpoint_lacks_nothing(folder):
    loaded = load_model(folder)
    assert "missing_weights" not in loaded.card
    assert loaded.notes == ()


def test_a_tied_head_is_not_missing(changed):
    assert load_model(changed(without("lm_head"), tie_word_embeddings=True)).notes == ()


def test_weights_that_are_not_used_are_told(changed):
    notes = load_model(changed(without("nothing"), num_hidden_layers=2)).notes
    assert "not used by OlmoeForCausalLM: model.layers.2." in notes[0]


def test_an_adapter_is_refused(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "copy")
    (path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="merge it into its base model"):
        load_model(path)


@pytest.mark.parametrize("command", ["trace", "generate", "evaluate", "doctor", "serve"])
def test_every_command_refuses(changed, tmp_path, capsys, command):
    path = str(changed(without(".1.mlp.gate.")))
    prompts, profile = tmp_path / "p.jsonl", tmp_path / "s.json"
    prompts.write_text('{"id": "1", "text": "Hi"}\n')
    profile.write_text('{"rules": []}')
    rest = {
        "trace": [str(prompts), "--out", str(tmp_path / "t")],
        "generate": ["Hi"],
        "evaluate": [str(prompts), "--steer", str(profile)],
    }.get(command, [])
    assert run([command, path, *rest, "--device", "cpu"]) == 1
    assert "model.layers.1.mlp.gate.weight" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_another_attention_than_the_checkpoints_can_be_asked_for(changed):
    path = changed(without("nothing"), _attn_implementation="flash_attention_2")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="--attn-implementation sdpa"):
            load_model(path)
    for name in ("sdpa", "eager"):
        assert load_model(path, attn_implementation=name).model.config._attn_implementation == name
    with pytest.raises(ModelError, match="nonsense"):
        load_model(path, attn_implementation="nonsense")

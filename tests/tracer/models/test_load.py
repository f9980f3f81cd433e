"""Loading a model: from safetensors only, without remote code, and every failure in one line."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe

from moescope.tracer import find_routers, load_model
from moescope.tracer.models.card import active_parameters, model_card
from moescope.tracer.models.load_errors import ModelError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_olmoe().save_pretrained(path)
    character_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_a_folder_loads_in_eval_mode_and_unpacks(folder):
    loaded = load_model(folder)
    model, tokenizer = loaded
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    ids = tokenizer("hello", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, tiny_olmoe()(input_ids=ids).logits)
    assert loaded.card["architecture"] == "OlmoeForCausalLM"
    assert loaded.card["name"] == str(folder)


def test_dtype_is_the_checkpoints_or_the_one_asked_for(folder):
    assert load_model(folder).model.dtype == torch.float32
    assert load_model(folder, dtype="bfloat16").model.dtype == torch.bfloat16


def broken_config(path, **changes):
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(config))


def test_weights_in_a_pickle_are_refused_unopened(copy):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, a pickle, which could run code"):
        load_model(copy)


def test_remote_code_is_refused(copy, monkeypatch):
    ran = copy / "ran"
    (copy / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    broken_config(
        copy, model_type="evil", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    )
    with pytest.raises(ModelError, match="--trust-remote-code"):
        load_model(copy)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "config.json").unlink(), "holds no config.json"),
        (lambda path: (path / "config.json").write_text("{"), "config.json"),
        (lambda path: (path / "model.safetensors").unlink(), r"holds no \*\.safetensors"),
        (lambda path: (path / "model.safetensors").write_bytes(b"\0" * 20), "copy: "),
        (lambda path: broken_config(path, model_type="nothing_known"), "does not know its model type"),
        (lambda path: broken_config(path, model_type="vit"), "vit is not a language model that predicts tokens"),
        (lambda path: [file.unlink() for file in path.glob("tokenizer*")], "tokenizer cannot be loaded"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_named_in_one_line(copy, change, message):
    change(copy)
    with pytest.raises(ModelError, match=message) as error:
        load_model(copy)
    assert "\n" not in str(error.value)


def test_what_is_no_model_is_named(tmp_path, folder):
    for name in (tmp_path / "missing", "./missing", "a/b/c", "", tmp_path / "x.gguf"):
        with pytest.raises(ModelError, match="there is no such folder"):
            load_model(name)
    with pytest.raises(ModelError, match="is a file; give the model's folder"):
        load_model(folder / "config.json")
    (tmp_path / "weights.gguf").touch()
    with pytest.raises(ModelError, match=r"it holds weights\.gguf: give that file"):
        load_model(tmp_path)


def test_a_hub_name_without_a_network_says_so_at_once(monkeypatch):
    def unknown(*args):
        raise socket.gaierror("Name or service not known")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ModelError, match="is not a folder, and the hub cannot be reached"):
        load_model("nobody/no-such-model-0")


def test_gguf_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'moescope\[gguf\]'"):
        load_model(tmp_path / "tiny.gguf")


@pytest.mark.parametrize(("device", "dtype"), [("tpu", "auto"), ("cpu", "int4"), ("cuda:99", "auto")])
def test_a_wrong_device_or_dtype_is_named(folder, device, dtype):
    with pytest.raises(ModelError, match=device if dtype == "auto" else dtype):
        load_model(folder, device=device, dtype=dtype)


def test_fingerprints_tell_weights_apart_and_ignore_how_they_were_loaded(folder):
    base = model_card(tiny_olmoe())
    assert load_model(folder).card["weights_fingerprint"] == base["weights_fingerprint"]
    assert load_model(folder).card["config_hash"] == base["config_hash"]
    assert model_card(tiny_olmoe(seed=1))["weights_fingerprint"] != base["weights_fingerprint"]
    assert model_card(tiny_olmoe(num_experts_per_tok=3))["config_hash"] != base["config_hash"]
    changed = tiny_olmoe()
    with torch.no_grad():
        changed.get_parameter("model.layers.1.mlp.gate.weight")[0, 0] += 1
    assert model_card(changed)["weights_fingerprint"] != base["weights_fingerprint"]


def test_active_parameters_leave_out_the_experts_that_a_token_does_not_use():
    model = tiny_olmoe()
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    total = sum(p.numel() for p in model.parameters())
    assert active_parameters(model, find_routers(model)) == total - experts * 6 // 8

"""A dense model in the app: offered as emergent experts, traced so, and said so on every page."""

from __future__ import annotations

import json
import shutil
import time

import pytest
import streamlit as st
import torch
from streamlit.testing.v1 import AppTest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import moescope.app
from moescope.app.shell.shell import PAGES
from moescope.store import open_trace
from moescope.tracer.jobs import jobs
from moescope.tracer.models.looks_dense import looks_dense

NEVER = "never trained as experts"


@pytest.fixture(autouse=True)
def _fresh_caches():
    st.cache_data.clear()
    st.cache_resource.clear()


@pytest.fixture(scope="module")
def dense_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "dense"
    words = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["<unk>", *"abcdefgh"])}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<unk>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def library(dense_model, tmp_path_factory):
    """A library with one trace of a dense model, made by a job as the app makes it."""
    library = tmp_path_factory.mktemp("emergent")
    prompts = library / "p.csv"
    prompts.write_text("text,language\na b c,en\nd e,fr\n")
    job = jobs.start_trace(str(dense_model), prompts, library / "split", experts=8, device="cpu")
    until = time.monotonic() + 90
    while not (status := job.status()).ended:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert status.state == "complete", status.log_tail
    return library


def app_on(library, monkeypatch, page: str = "library", **params: str) -> AppTest:
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(library))
    monkeypatch.setattr("sys.argv", ["main.py"])
    app = AppTest.from_file(str(moescope.app.__path__[0]) + "/main.py", default_timeout=60)
    app.session_state["travel"] = (page, params)
    return app.run()


def shown(app: AppTest) -> str:
    return " ".join(element.proto.body for element in app.get("html"))


def test_a_job_splits_a_dense_model(library):
    trace = open_trace(library / "split")
    assert [(spec.num_experts, spec.top_k) for spec in trace.routers] == [(8, 8)] * 2
    assert all(NEVER in spec.note for spec in trace.routers)


@pytest.mark.parametrize("page", [screen.name for screen in PAGES])
def test_every_page_says_what_the_groups_are(library, monkeypatch, page):
    app = app_on(library, monkeypatch, page, trace="split")
    assert not app.exception
    assert NEVER in shown(app)


def test_the_form_offers_emergent_experts_for_a_dense_model_only(library, dense_model, monkeypatch, tmp_path):
    moe = tmp_path / "moe"
    shutil.copytree(dense_model, moe)
    config = json.loads((moe / "config.json").read_text()) | {"num_local_experts": 8}
    (moe / "config.json").write_text(json.dumps(config))
    started = []
    monkeypatch.setattr(
        "moescope.app.screens.library.new_trace.start_trace",
        lambda model, prompts, out, **options: started.append(options),
    )
    app = app_on(library, monkeypatch)
    for model, groups in ((dense_model, 16), (moe, None)):
        app.text_input(key="new-model").set_value(str(model)).run()
        toggles = [toggle for toggle in app.toggle if str(toggle.key).startswith("new-emergent")]
        assert [toggle.value for toggle in toggles] == ([True] if groups else [])
        if groups:
            assert NEVER in shown(app)
            app.number_input(key="new-groups").set_value(groups).run()
        app.button(key="new-start").click().run()
        assert not app.exception
        assert started[-1].get("experts") == groups


@pytest.mark.parametrize(
    ("config", "dense"),
    [
        ({"model_type": "llama"}, True),
        ({"num_experts": 64}, False),
        ({"num_experts": 1}, True),
        ({"text_config": {"n_routed_experts": 8}}, False),
        ({"ffn_config": {"moe_num_experts": 16}}, False),
        ({"num_experts": [4, 8]}, False),
        ({"num_experts_per_tok": 2}, True),
    ],
)
def test_experts_are_read_from_the_configuration(tmp_path, config, dense):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert looks_dense(str(tmp_path)) is dense


def test_what_cannot_be_told_is_left_open(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert looks_dense(str(tmp_path)) is None
    assert looks_dense("someone/a-model") is None
    (tmp_path / "a.gguf").write_bytes(b"GGUF llama.block_count")
    (tmp_path / "b.gguf").write_bytes(b"GGUF qwen3moe.expert_count")
    assert looks_dense(str(tmp_path / "a.gguf")) is True
    assert looks_dense(str(tmp_path / "b.gguf")) is False

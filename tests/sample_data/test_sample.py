"""The committed sample: model, prompt sets, measurements and trace belong together and keep their promises."""

import csv
import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from moescope.store import open_trace

SAMPLE = Path(__file__).parents[2] / "sample_data"
TRAINING = ["en", "de", "fr", "es", "it", "pt", "ru", "zh", "ja", "ko", "tr", "el"]


def rows(name: str) -> list[dict[str, str]]:
    with (SAMPLE / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(SAMPLE / "model", dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(SAMPLE / "model")


@pytest.fixture(scope="module")
def evaluation():
    return json.loads((SAMPLE / "evaluation.json").read_text(encoding="utf-8"))


def test_model_is_small_and_ordinary():
    assert sum(file.stat().st_size for file in (SAMPLE / "model").glob("*.safetensors")) <= 25_000_000
    config = json.loads((SAMPLE / "model" / "config.json").read_text())
    assert (config["model_type"], config["dtype"]) == ("olmoe", "bfloat16")
    assert (config["num_hidden_layers"], config["num_experts"], config["num_experts_per_tok"]) == (8, 32, 4)


def test_it_predicts_held_out_help_in_every_language(model, tokenizer):
    """Measured here without the build scripts: no language above 2 bits per byte on help_parallel.csv."""
    texts = rows("help_parallel")
    for language in TRAINING:
        some = [row["text"] for row in texts if row["language"] == language][:12]
        nats = 0.0
        for text in some:
            ids = torch.tensor([tokenizer("<|endoftext|>" + text)["input_ids"]])
            with torch.no_grad():
                nats += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        assert nats / math.log(2) / sum(len(text.encode()) for text in some) < 2.0


def test_measurements_keep_the_promises(evaluation):
    bits = evaluation["bits_per_byte"]
    assert list(bits) == TRAINING
    assert np.mean(list(bits.values())) <= 1.40
    assert all(bits[who] < evaluation["xz"][who] < evaluation["untrained"][who] for who in TRAINING)
    assert np.shape(evaluation["load"]) == (8, 32)
    assert np.min(evaluation["load"]) >= 0.005


@pytest.mark.parametrize("language", TRAINING)
def test_the_experts_of_a_language_matter_to_it_most(evaluation, language):
    cost, by_chance = evaluation["removal"]["extra"][language], evaluation["removal"]["random"]
    assert cost[language] == max(cost.values())
    assert cost[language] > max(0.1, 2 * by_chance[language])


def test_readme_shows_the_measurements(evaluation, monkeypatch):
    monkeypatch.syspath_prepend(SAMPLE / "build")
    readme = importlib.import_module("readme")
    monkeypatch.delitem(sys.modules, "readme")
    text = (SAMPLE / "README.md").read_text(encoding="utf-8")
    assert readme.filled(text, readme.measured(evaluation)) == text
    with pytest.raises(ValueError, match="markers"):
        readme.filled("no markers", "tables")


def test_declaration_is_aligned_in_all_languages():
    table = rows("udhr")
    units = {
        language: [r["parallel_id"] for r in table if r["language"] == language] for language in TRAINING
    }
    assert len({row["parallel_id"] for row in table}) == 50
    assert all(ids == units["en"] for ids in units.values())
    unseen = {row["language"] for row in table if row["seen"] == "false"}
    assert len(unseen) >= 8
    assert not unseen & set(TRAINING)
    assert len(table) == 50 * (12 + len(unseen)) == len({row["id"] for row in table})


def test_declaration_fits_the_model(tokenizer):
    assert max(len(tokenizer(row["text"])["input_ids"]) for row in rows("udhr")) <= 1024


@pytest.mark.parametrize(("name", "texts"), [("help_parallel", 240), ("contrast", 82)])
def test_help_and_contrast_are_complete(name, texts):
    table = rows(name)
    assert len(table) == len({row["id"] for row in table}) == texts * 12
    assert {(row["parallel_id"], row["language"]) for row in table} == {
        (parallel, language) for parallel in {row["parallel_id"] for row in table} for language in TRAINING
    }


def test_contrast_is_balanced_in_length():
    english = [row for row in rows("contrast") if row["language"] == "en"]
    lengths = {g: sorted(len(r["text"]) for r in english if r["group"] == g) for g in ("instruction", "law")}
    assert len(lengths["instruction"]) == len(lengths["law"])
    assert np.mean(lengths["instruction"]) == pytest.approx(np.mean(lengths["law"]), rel=0.2)


def test_recorded_trace_is_what_the_model_does(model, tokenizer):
    """Experts of a prompt in the trace against the router's own top-k in a plain forward pass."""
    trace = open_trace(SAMPLE / "trace")
    texts = {row["id"]: row["text"] for row in rows("udhr")}
    assert set(trace.prompts().column("prompt_id").to_pylist()) == set(texts)
    for prompt in ("udhr-03/ja", "udhr-17.2/de", "udhr-03/hi"):
        ids = torch.tensor([tokenizer(texts[prompt])["input_ids"]])
        with torch.no_grad():
            logits = model(ids, output_router_logits=True).router_logits
        events = trace.sql(
            f"SELECT layer, position, experts FROM events WHERE prompt_id = '{prompt}' ORDER BY layer, position"
        ).to_pylist()
        assert len(events) == 8 * ids.shape[1]
        agree = [
            event["experts"] == logits[event["layer"]][event["position"]].topk(4).indices.tolist()
            for event in events
        ]
        assert np.mean(agree) > 0.99

"""Jobs as the app uses them: started, followed, cancelled, and told from dead ones."""

import json
import signal
import time

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedTokenizerFast,
)

from moescope.store import open_trace
from moescope.tracer.jobs import jobs, process


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    words = ["<unk>", *"abcdefghij"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<unk>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_experts=8, num_experts_per_tok=2, max_position_embeddings=4096,
    )  # fmt: skip
    OlmoeForCausalLM(config).save_pretrained(folder)
    return folder


def wait(job, seconds=90):
    until = time.monotonic() + seconds
    while not (status := job.status()).ended:
        assert time.monotonic() < until, status
        time.sleep(0.1)
    return status


def test_a_job_runs_to_its_end_and_is_found_again(model_folder, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("text\na b c\nd e\n")
    job = jobs.start_trace(str(model_folder), prompts, tmp_path / "library" / "mine", device="cpu")
    status = wait(job)
    assert status.state == "complete", status.log_tail
    assert (status.prompts, status.total_prompts) == (2, 2)
    assert open_trace(job.out).num_events == 5 * 2 == status.summary["events"]
    (found,) = jobs.list_jobs(tmp_path / "library")
    assert found == job
    job.forget()
    assert jobs.list_jobs(tmp_path / "library") == []
    assert open_trace(job.out).state == "complete"


def test_a_failure_is_one_line_and_a_log(model_folder, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("text\na b c\n")
    status = wait(jobs.start_trace(str(tmp_path / "nowhere"), prompts, tmp_path / "t"))
    assert status.state == "failed"
    assert status.error
    assert "\n" not in status.error
    assert "Traceback" in status.log_tail


@pytest.mark.parametrize("inherited", [signal.default_int_handler, signal.SIG_IGN])
def test_a_cancelled_job_keeps_what_is_committed(model_folder, tmp_path, inherited):
    """Also where the app itself ignores Ctrl-C, as all that a shell script runs in its background does."""
    prompts = tmp_path / "prompts.csv"
    prompts.write_text(
        "text\n" + "a b c d e f g h i j " * 300 + "\n" + ("a b c d e f g h i j " * 300 + "\n") * 400
    )
    before = signal.signal(signal.SIGINT, inherited)
    try:
        job = jobs.start_trace(str(model_folder), prompts, tmp_path / "t", batch_tokens=3000)
    finally:
        signal.signal(signal.SIGINT, before)
    until = time.monotonic() + 90
    while job.status().state not in ("running", *jobs.ENDED) and time.monotonic() < until:
        time.sleep(0.05)
    job.cancel(wait=30)
    assert job.status().state == "cancelled", job.status()
    assert open_trace(job.out).state in ("partial", "complete")


def test_a_dead_process_is_told_from_a_working_one(tmp_path):
    folder = tmp_path / "t.job"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps({"model": "m", "prompts": "p", "out": "t", "options": {}}))
    jobs.write_status(folder, jobs.Status(state="running"))
    (folder / "pid").write_text("1")
    status = jobs.Job(folder).status()
    assert status.state == "died"
    assert status.error


def test_one_trace_has_one_job_at_a_time(model_folder, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("text\na b c\n")
    job = jobs.start_trace(str(model_folder), prompts, tmp_path / "t")
    with pytest.raises(FileExistsError, match="already being traced"):
        jobs.start_trace(str(model_folder), prompts, tmp_path / "t")
    wait(job)


def test_splitting_a_dense_model_is_told_layer_by_layer(model_folder, tmp_path, monkeypatch):
    """No process of its own: every status that is written is looked at."""
    dense = tmp_path / "dense"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(dense)
    PreTrainedTokenizerFast.from_pretrained(model_folder).save_pretrained(dense)
    (tmp_path / "p.csv").write_text("text\na b c\n")
    folder = tmp_path / "t.job"
    folder.mkdir()
    asked = {"model": str(dense), "prompts": str(tmp_path / "p.csv"), "out": str(tmp_path / "t")}
    (folder / "job.json").write_text(json.dumps(asked | {"options": {"device": "cpu", "experts": 4}}))
    seen = []
    monkeypatch.setattr(process, "write_status", lambda _, status: seen.append((status.state, status.layers)))
    assert process.main(folder) == 0
    assert seen[:4] == [("loading", 0), ("splitting", 1), ("splitting", 2), ("splitting", 3)]
    assert seen[-1][0] == "complete"


def test_a_place_that_is_taken_is_refused_before_the_model_is_loaded(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "mine.txt").write_text("mine")
    (tmp_path / "p.csv").write_text("text\na b c\n")
    status = wait(jobs.start_trace("no/such-model", tmp_path / "p.csv", tmp_path / "t"))
    assert status.state == "failed"
    assert "holds other files (mine.txt)" in (status.error or "")

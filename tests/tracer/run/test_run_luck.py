"""Bad luck while tracing: no memory, an interrupt, a full disk, a wrong capture. Committed prompts are kept."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe

from moescope.store import StoreError, TraceWriter, open_trace
from moescope.tracer import PromptSet, trace_prompts
from moescope.tracer.errors import CaptureError, TracerError
from moescope.tracer.hooks.taps import Tap
from moescope.tracer.run import part_writer
from moescope.tracer.run.batch_runner import OutOfMemory

TEXTS = [
    "one",
    "two and two",
    "a longer text than that",
    "x",
    "yet another text",
    "the end",
    "no",
    "yes indeed",
]


def prompts(**columns):
    return PromptSet.from_rows([{"id": f"p{i}", "text": text, **columns} for i, text in enumerate(TEXTS)])


def trace(model, out, **options):
    settings = {"weight_type": "float32", "batch_tokens": 64, "part_events": 1} | options
    return trace_prompts(model, character_tokenizer(), prompts(), out, **settings)


def rows(url):
    """All events as a set, weights rounded to what a batch may change."""
    table = open_trace(url).events().to_pydict()
    columns = [table[name] for name in ("prompt_id", "layer", "position", "experts")]
    weights = [tuple(np.round(row, 4)) for row in table["weights"]]
    return {(*map(str, key), weight) for *key, weight in zip(*columns, weights, strict=True)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    url = tmp_path_factory.mktemp("whole") / "t"
    trace(tiny_olmoe(), url)
    return rows(url)


def hungry(monkeypatch, limit, error: Callable[[str], Exception] = torch.OutOfMemoryError):
    """A model that has room for `limit` padded tokens."""
    model = tiny_olmoe()
    run = model.forward

    def forward(*args, **kwargs):
        if kwargs["input_ids"].numel() > limit:
            raise error("CUDA out of memory. Tried to allocate 20.00 MiB")
        return run(*args, **kwargs)

    monkeypatch.setattr(model, "forward", forward)
    return model


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(tmp_path, monkeypatch, whole, error):
    summary = trace(hungry(monkeypatch, 30, error), tmp_path / "t", batch_tokens=500, part_events=10**9)
    assert summary.prompts == len(TEXTS)
    assert rows(tmp_path / "t") == whole


def test_a_prompt_that_does_not_fit_alone_is_named_and_the_rest_stays(tmp_path, monkeypatch, whole):
    with pytest.raises(OutOfMemory, match="'p2'"):
        trace(hungry(monkeypatch, 20), tmp_path / "t", batch_size=1, batch_tokens=20)
    left = open_trace(tmp_path / "t")
    assert left.state == "partial"
    summary = trace(tiny_olmoe(), tmp_path / "t", resume=True)
    assert summary.resumed_prompts == left.num_prompts
    assert rows(tmp_path / "t") == whole


def test_another_error_of_the_model_is_not_taken_for_missing_memory(tmp_path, monkeypatch):
    model = hungry(monkeypatch, 0, lambda text: RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trace(model, tmp_path / "t")
    assert open_trace(tmp_path / "t").num_prompts == 0


def interrupted(model, after):
    """A model whose user presses Ctrl-C in a later batch."""
    run, calls = model.forward, []

    def forward(*args, **kwargs):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return run(*args, **kwargs)

    model.forward = forward
    return model


@pytest.mark.parametrize("part_events", [1, 10**9])
def test_an_interrupt_keeps_every_finished_batch_and_resume_goes_on(tmp_path, whole, part_events):
    with pytest.raises(KeyboardInterrupt):
        trace(interrupted(tiny_olmoe(), 2), tmp_path / "t", part_events=part_events)
    left = open_trace(tmp_path / "t")
    assert left.state == "partial"
    assert 0 < left.num_prompts < len(TEXTS)
    assert rows(tmp_path / "t") < whole
    trace(tiny_olmoe(), tmp_path / "t", resume=True)
    assert rows(tmp_path / "t") == whole
    assert open_trace(tmp_path / "t").state == "complete"


def test_a_slow_run_commits_early_and_then_more_and_more_at_once(tmp_path, monkeypatch, whole):
    clock = itertools.count(step=10)  # ten seconds a batch, and a commit takes ten more
    monkeypatch.setattr(part_writer, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    trace(tiny_olmoe(), tmp_path / "t", batch_size=1, part_events=10**9)
    parts = json.loads((tmp_path / "t" / "trace.json").read_text())["parts"]
    assert [part["prompts"] for part in parts] == [2, 4, 2]
    assert rows(tmp_path / "t") == whole


def test_parts_are_larger_behind_a_url(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(part_writer, "PART_EVENTS", 1)
    far = f"memory://{uuid.uuid4().hex}/t"
    for url in (far, tmp_path / "t"):
        trace(tiny_olmoe(), url, batch_size=1, part_events=None)
    assert len(open_trace(tmp_path / "t").parts) == len(TEXTS)
    assert len(open_trace(far).parts) == 1
    assert rows(far) == whole


def test_a_finished_trace_can_be_resumed_to_no_effect(tmp_path, whole):
    trace(tiny_olmoe(), tmp_path / "t")
    summary = trace(tiny_olmoe(), tmp_path / "t", resume=True)
    assert (summary.prompts, summary.resumed_prompts) == (0, len(TEXTS))
    assert rows(tmp_path / "t") == whole


def test_a_limit_can_be_raised_by_resuming(tmp_path, whole):
    assert trace(tiny_olmoe(), tmp_path / "t", limit=3).prompts == 3
    assert trace(tiny_olmoe(), tmp_path / "t", resume=True).prompts == len(TEXTS) - 3
    assert rows(tmp_path / "t") == whole


def test_another_model_or_setting_is_not_mixed_into_a_trace(tmp_path):
    trace(tiny_olmoe(), tmp_path / "t", limit=2)
    with pytest.raises(StoreError, match="weights_fingerprint"):
        trace(tiny_olmoe(seed=1), tmp_path / "t", resume=True)
    with pytest.raises(StoreError, match="max_new_tokens"):
        trace(tiny_olmoe(), tmp_path / "t", resume=True, max_new_tokens=2)
    with pytest.raises(StoreError, match="already holds a trace"):
        trace(tiny_olmoe(), tmp_path / "t")


def test_an_error_of_the_writer_ends_the_run(tmp_path, monkeypatch):
    def write(self, part):
        raise StoreError("the disk is full")

    monkeypatch.setattr(TraceWriter, "write", write)
    with pytest.raises(StoreError, match="the disk is full"):
        trace(tiny_olmoe(), tmp_path / "t")


def test_a_capture_that_is_not_what_runs_stops_the_first_batch(tmp_path, monkeypatch):
    honest = Tap._pass

    def lying(self, call):
        routed = [sink.routed for sink, _ in self.sinks]
        for sink, _ in self.sinks:
            tell = sink.routed
            sink.routed = lambda spec, ids, w, z, tell=tell: tell(spec, ids.flip(-1), w, z)
        try:
            return honest(self, call)
        finally:
            for (sink, _), tell in zip(self.sinks, routed, strict=True):
                sink.routed = tell

    monkeypatch.setattr(Tap, "_pass", lying)
    with pytest.raises(CaptureError, match=r"model\.layers\.0\.mlp\.experts"):
        trace(tiny_olmoe(), tmp_path / "t")
    assert open_trace(tmp_path / "t").num_prompts == 0


@pytest.mark.parametrize(("letter", "hit"), [("y", {"p4", "p7"}), ("t", {"p1", "p2", "p4", "p5"})])
def test_nan_in_the_logits_is_counted_and_recorded(tmp_path, letter, hit):
    model = tiny_olmoe()
    with torch.no_grad():  # a NaN among the keys reaches every query of its prompt
        model.model.embed_tokens.weight[character_tokenizer().convert_tokens_to_ids(letter)] = torch.nan
    settings = {"capture": ("ids", "weights", "entropy"), "batch_size": 1}
    trace_prompts(model, character_tokenizer(), prompts(), tmp_path / "t", **settings)
    result = open_trace(tmp_path / "t")
    bad = {row["prompt_id"] for row in result.events().to_pylist() if row["entropy"] != row["entropy"]}
    assert bad == hit
    tokens = sum(len(text) + 1 for text in TEXTS if letter in text)
    assert sum(part.nan_tokens for part in result.parts) == 3 * tokens
    assert result.nan_rows().to_pylist() == [
        {"prompt_id": row["prompt_id"], "layer": layer, "stream": "decoder", "tokens": len(row["text"]) + 1}
        for row in result.prompts().to_pylist()
        if row["prompt_id"] in hit
        for layer in range(3)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capture": ("ids", "colour")}, "cannot capture 'colour'"),
        ({"batch_tokens": 0}, "at least one token"),
        ({"weight_type": "int8"}, "float16 or float32"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(TracerError, match=message):
        trace(tiny_olmoe(), tmp_path / "t", **options)
    assert not (tmp_path / "t").exists()


def test_a_prompt_that_the_model_cannot_take_is_named_before_anything_is_written(tmp_path):
    model = tiny_olmoe(max_position_embeddings=16)
    with pytest.raises(TracerError, match="'p2' has 24 tokens, the model takes at most 16"):
        trace(model, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_model_that_replays_its_kernels_past_the_hooks_is_told_so(tmp_path, monkeypatch):
    """As a CUDA graph does: the forward gives an answer, and no module below it is called."""
    model = tiny_olmoe()
    with torch.no_grad():
        answer = model(input_ids=torch.arange(4, 8).reshape(1, 4))
    monkeypatch.setattr(model, "forward", lambda **inputs: answer)
    with pytest.raises(CaptureError, match=r"CUDA-graphed model replays .* load it without torch.compile"):
        trace(model, tmp_path / "t")
    assert open_trace(tmp_path / "t").num_prompts == 0

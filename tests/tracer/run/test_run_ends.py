"""A pass over prompts ends with the last router's decision, and only where nobody else could miss the rest."""

from __future__ import annotations

from contextlib import contextmanager
from functools import wraps

import pytest
from tiny import character_tokenizer, family, tiny_olmoe

from moescope.tracer import PromptSet, Steering, find_routers, record_routing, trace_prompts

TEXTS = ["Where is it?", "a", "some more words", "two", "The end.", "0123456789"]
BATCHES = 3


def traced(model, url, **options):
    """The trace's files by path."""
    prompts = PromptSet.from_rows([{"id": f"p{i}", "text": text} for i, text in enumerate(TEXTS)])
    trace_prompts(model, character_tokenizer(), prompts, url, batch_size=2, **options)
    return {path.relative_to(url): path.read_bytes() for path in sorted(url.rglob("*.parquet"))}


@contextmanager
def counted(module):
    """How often the forward of a module's class was carried out; nothing is put on the module itself."""
    kind, calls = type(module), []
    forward = kind.forward

    @wraps(forward)
    def counting(self, *args, **kwargs):
        if self is module:
            calls.append(1)
        return forward(self, *args, **kwargs)

    kind.forward = counting
    try:
        yield calls
    finally:
        kind.forward = forward


def last_experts(model):
    return model.get_submodule(find_routers(model)[-1].experts)


@pytest.mark.parametrize("name", ["olmoe", "deepseek_v3", "gpt_oss", "qwen3_next"])
def test_the_trace_is_that_of_whole_passes(tmp_path, name):
    model, passes = family(name), []
    with counted(last_experts(model)) as calls:
        short = traced(model, tmp_path / "short")
    assert len(calls) == 1, "only the first batch, which is checked, runs to its end"
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    with counted(last_experts(model)) as calls:
        whole = traced(model, tmp_path / "whole")
    hook.remove()
    assert len(calls) == len(passes) == BATCHES
    assert short == whole
    assert len(short) == 4


def test_passes_go_on_for_whoever_watches_steers_generates_or_asks_for_outputs(tmp_path):
    model = tiny_olmoe()
    experts = last_experts(model)
    scale = Steering([{"rule": "scale", "layers": [0], "experts": [1], "amount": 2.0}])
    options = [{"steering": scale}, {"max_new_tokens": 1}, {"capture": ("ids", "output_norm")}]
    for number, option in enumerate(options):
        with counted(experts) as calls:
            traced(model, tmp_path / str(number), **option)
        assert len(calls) >= BATCHES, option
    with counted(experts) as calls, record_routing(model) as routing:
        traced(model, tmp_path / "recorded")
    assert len(calls) == BATCHES
    assert len(routing.ids(0)) == len(routing.ids(2))
    seen, forward = [], experts.forward
    experts.forward = wraps(forward)(lambda *args, **kwargs: (seen.append(1), forward(*args, **kwargs))[1])
    traced(model, tmp_path / "wrapped")
    del experts.forward
    assert len(seen) == BATCHES


def test_a_model_once_asked_for_its_hidden_states_is_still_cut_short(tmp_path):
    model = tiny_olmoe()
    ids = character_tokenizer()("ab", return_tensors="pt")["input_ids"]
    model(input_ids=ids, output_router_logits=True, output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules())
    with counted(last_experts(model)) as calls:
        traced(model, tmp_path / "t")
    assert len(calls) == 1


def test_only_the_layers_up_to_the_router_that_is_traced_run(tmp_path):
    model = tiny_olmoe()
    one = next(spec for spec in find_routers(model) if spec.layer == 1)
    with counted(model.get_submodule(str(one.experts))) as first, counted(model.model.norm) as norm:
        traced(model, tmp_path / "t", routers=[one])
    assert len(first) == len(norm) == 1

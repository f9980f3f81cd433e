"""A trace says what the model executed for each prompt alone, whatever the batch was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import NINE, character_tokenizer, executed, family, tiny_olmoe

from moescope.store import open_trace
from moescope.tracer import PromptSet, Steering, find_routers, trace_prompts
from moescope.tracer.routers import find

TEXTS = [
    "a", "Where is the library?", "two words", "The quick brown fox jumps over the lazy dog.", "x = y + 1",
    "hello hello hello", "Zebra", "0123456789", "Is it?", "no", "A rather longer sentence, with a comma.",
    "~~~", "end", "What happened then? Nobody knows.", "q", "last one",
]  # fmt: skip


def prompt_set(texts=TEXTS):
    return PromptSet.from_rows([{"id": f"p{i}", "text": text} for i, text in enumerate(texts)])


def events(trace, spec):
    """By prompt id: experts and weights of one router, by position."""
    table = trace.events(layer=spec.layer, stream=spec.stream)
    found = {}
    columns = (table[name].to_pylist() for name in ("prompt_id", "position", "experts", "weights"))
    for prompt_id, position, experts, weights in zip(*columns, strict=True):
        found.setdefault(prompt_id, {})[position] = (experts, weights)
    return {
        prompt_id: tuple(np.asarray([rows[position][i] for position in sorted(rows)]) for i in (0, 1))
        for prompt_id, rows in found.items()
    }


def router_logits(model, ids):
    """Logits of each layer's router in one forward pass, by a plain hook on its gate."""
    logits = {}

    def watch(layer):
        return lambda module, args, output: logits.update({layer: output[0]})

    gates = [(layer, block.mlp.gate) for layer, block in enumerate(model.model.layers)]
    hooks = [gate.register_forward_hook(watch(layer)) for layer, gate in gates]
    with torch.no_grad():
        model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return logits


@pytest.mark.parametrize("name", NINE)
def test_any_batch_size_gives_what_each_prompt_alone_executes(tmp_path, name):
    model, tokenizer = family(name), character_tokenizer()
    routers = find_routers(model)
    paths = {spec: spec.experts or "" for spec in routers}
    traces = {}
    for size in (1, 3, 16):
        url = tmp_path / str(size)
        trace_prompts(model, tokenizer, prompt_set(), url, batch_size=size, weight_type="float32")
        trace = open_trace(url)
        traces[size] = {spec: events(trace, spec) for spec in routers}
    for number, text in enumerate(TEXTS):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        alone = executed(model, list(paths.values()), lambda ids=ids: model(input_ids=ids))
        for spec in routers:
            ((experts, weights),) = alone[paths[spec]]
            for size, recorded in traces.items():
                got = recorded[spec][f"p{number}"]
                np.testing.assert_array_equal(
                    got[0], experts.numpy(), err_msg=f"{spec.experts}, batch of {size}"
                )
                np.testing.assert_allclose(got[1], weights.numpy(), atol=1e-5, rtol=0)


def test_token_rows_say_what_was_read(tmp_path):
    model, tokenizer = tiny_olmoe(), character_tokenizer()
    rows = [{"id": "a", "text": "Hi ", "completion": "you"}, {"id": "b", "text": "</s>~"}]
    trace_prompts(model, tokenizer, PromptSet.from_rows(rows), tmp_path / "t")
    tokens = open_trace(tmp_path / "t").tokens("a").to_pydict()
    assert tokens["token"] == ["<s>", "H", "i", " ", "y", "o", "u"]
    assert tokens["position"] == list(range(7))
    assert tokens["special"] == [True] + [False] * 6
    assert tokens["completion"] == [False] * 4 + [True] * 3
    assert set(tokens["phase"]) == {"prefill"}
    assert open_trace(tmp_path / "t").tokens("b")["special"].to_pylist() == [True, True, False]


def test_probability_sums_are_those_of_each_prompt_alone(tmp_path):
    model, tokenizer = tiny_olmoe(), character_tokenizer()
    capture = ("ids", "weights", "probability", "entropy", "logits")
    trace_prompts(model, tokenizer, prompt_set(), tmp_path / "t", capture=capture, weight_type="float32")
    trace = open_trace(tmp_path / "t")
    for number, text in enumerate(TEXTS):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        for layer, z in router_logits(model, ids).items():
            p = z.float().softmax(-1)
            rollups = trace.rollups(layer)
            assert rollups.probability_sum is not None
            assert rollups.entropy_sum_R is not None
            own = np.flatnonzero(rollups.prompt_R == number)
            assert sorted(zip(rollups.special_R[own], rollups.tokens_R[own], strict=True)) == [
                (False, len(text)),
                (True, 1),
            ]
            for row in own:
                part = p[:1] if rollups.special_R[row] else p[1:]
                np.testing.assert_allclose(rollups.probability_sum[row], part.sum(0).numpy(), atol=1e-4)
                entropy = float(-(part * part.log()).sum())
                assert rollups.entropy_sum_R[row] == pytest.approx(entropy, abs=1e-3)
            table = trace.events(prompt_id=f"p{number}", layer=layer).to_pydict()
            np.testing.assert_allclose(table["logits"], z.numpy(), atol=1e-5)
            np.testing.assert_allclose(table["entropy"], -(p * p.log()).sum(-1).numpy(), atol=1e-5)
            chosen = p.gather(1, torch.tensor(table["experts"])).numpy()
            np.testing.assert_allclose(table["probability"], chosen, atol=1e-6)


def test_float16_weights_are_the_float32_ones_rounded(tmp_path):
    model, tokenizer = tiny_olmoe(), character_tokenizer()
    for kind in ("float16", "float32"):
        trace_prompts(model, tokenizer, prompt_set(), tmp_path / kind, weight_type=kind)
    half, full = (open_trace(tmp_path / kind).events() for kind in ("float16", "float32"))
    assert half["experts"] == full["experts"]
    exact = np.asarray(full["weights"].combine_chunks().flatten(), np.float32).astype(np.float16)
    np.testing.assert_array_equal(np.asarray(half["weights"].combine_chunks().flatten(), np.float16), exact)


def test_prompts_stand_in_the_order_of_the_set(tmp_path):
    trace_prompts(tiny_olmoe(), character_tokenizer(), prompt_set(), tmp_path / "t", batch_size=3)
    assert open_trace(tmp_path / "t").prompts()["prompt_id"].to_pylist() == [
        f"p{i}" for i in range(len(TEXTS))
    ]


def test_ids_alone_need_no_weights(tmp_path):
    trace_prompts(tiny_olmoe(), character_tokenizer(), prompt_set(), tmp_path / "t", capture=("ids",))
    table = open_trace(tmp_path / "t").events()
    assert "weights" not in table.column_names or table["weights"].null_count == len(table)


def test_a_model_in_training_mode_is_traced_without_noise_and_left_in_it(tmp_path):
    model = tiny_olmoe()
    model.train()
    trace_prompts(model, character_tokenizer(), prompt_set(), tmp_path / "t")
    assert model.training


def test_prompts_may_be_rows_or_a_file(tmp_path):
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    sources = [
        ["one", "two"],
        [{"text": "one"}, {"text": "two"}],
        tmp_path / "p.txt",
        prompt_set(["one", "two"]),
    ]
    made = []
    for number, source in enumerate(sources):
        trace_prompts(tiny_olmoe(), character_tokenizer(), source, tmp_path / str(number))
        made.append(open_trace(tmp_path / str(number)).events()["experts"].to_pylist())
    assert made[0]
    assert all(experts == made[0] for experts in made)


def test_routers_are_looked_for_once(tmp_path, monkeypatch):
    model, walks, walk = tiny_olmoe(), [], find._sites
    monkeypatch.setattr(find, "_sites", lambda *given: walks.append(1) or walk(*given))
    captures = ("ids", "weights", "probability", "output_norm", "similarity")
    steering = Steering([{"rule": "off", "layers": [1], "experts": [2]}])
    trace_prompts(
        model, character_tokenizer(), prompt_set(TEXTS[:3]), tmp_path / "t", capture=captures, max_new_tokens=2,
        steering=steering,
    )  # fmt: skip
    assert len(walks) == 1

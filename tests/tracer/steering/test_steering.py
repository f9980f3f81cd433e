"""Steering applied to running models: what holds of the choice, where it acts, and that nothing stays behind."""

import re
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from tiny import family, tiny_olmoe

from moescope.tracer import Steering, find_routers, record_routing
from moescope.tracer.errors import SteeringError
from moescope.tracer.steering.profile import PerSequence
from moescope.tracer.steering.rules import Rule

IDS = torch.arange(4, 4 + 24).reshape(3, 8)
MASK = torch.ones_like(IDS)


def run(model: Any, *contexts: Any, ids: torch.Tensor = IDS, mask: torch.Tensor | None = None) -> Any:
    """Logits and recorded routing of one forward inside these contexts."""
    with ExitStack() as stack, torch.no_grad():
        for context in contexts:
            stack.enter_context(context)
        routing = stack.enter_context(record_routing(model))
        return model(input_ids=ids, attention_mask=mask).logits, routing


def steer(model: Any, *rules: Any, **options: Any) -> Any:
    return Steering(rules).applied(model, **options)


def off(expert: int, **fields: Any) -> dict[str, Any]:
    return {"rule": "off", "experts": [expert], **fields}


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_olmoe()


def by_keyword(router: Any, hidden_TH: torch.Tensor) -> Any:
    """OLMoE's router, with every operand given by its name."""
    hidden_TH = hidden_TH.reshape(-1, router.hidden_dim)
    logits_TE = torch.nn.functional.linear(input=hidden_TH, weight=router.weight)
    scores_TE = torch.softmax(input=logits_TE, dim=-1, dtype=torch.float)
    weights_TK, ids_TK = torch.topk(input=scores_TE, k=router.top_k, dim=-1)
    return logits_TE, weights_TK.to(logits_TE.dtype), ids_TK


@pytest.mark.parametrize("rules", [[off(3)], [{"rule": "on", "experts": [5]}, off(0, layers=[1])]])
def test_a_router_may_name_its_operands(model, monkeypatch, rules):
    expected, there = run(model, steer(model, *rules))
    monkeypatch.setattr(type(model.model.layers[0].mlp.gate), "forward", by_keyword)
    logits, here = run(model, steer(model, *rules))
    assert torch.equal(logits, expected)
    assert all(torch.equal(here.ids(layer), there.ids(layer)) for layer in (0, 1))


def test_layers_that_are_not_named_choose_as_before_until_the_change_reaches_them(model):
    _, base = run(model)
    _, steered = run(model, steer(model, off(3, layers=[1])))
    assert torch.equal(steered.ids(0), base.ids(0))
    assert (steered.ids(1) != 3).all()
    assert (base.ids(1) == 3).any()
    assert torch.equal(steered.logits(1)[:, 4], base.logits(1)[:, 4])


def test_the_next_best_expert_takes_the_place_of_one_that_is_off(model):
    _, base = run(model)
    _, steered = run(model, steer(model, off(3, layers=[0])))
    expected = base.logits(0).clone()
    expected[:, 3] = -torch.inf
    assert torch.equal(steered.ids(0), expected.softmax(-1).topk(2).indices)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_every_implementation_of_experts_is_steered_alike(implementation):
    model: Any = tiny_olmoe()
    model.set_experts_implementation(implementation)
    rules = [
        off(1),
        {"rule": "top_k", "m": 1, "layers": [2]},
        {"rule": "scale", "experts": "all", "beta": 0.5},
    ]
    logits, steered = run(model, steer(model, *rules))
    eager = tiny_olmoe()
    eager.set_experts_implementation("eager")
    torch.testing.assert_close(logits, run(eager, steer(eager, *rules))[0], rtol=1e-4, atol=1e-4)
    assert (steered.ids(2)[:, 1] == -1).all()


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe", "deepseek_v2", "mistral4", "nemotron_h"])
def test_groups_and_biases_cannot_bring_a_masked_expert_back(name):
    model: Any = family(name)
    specs = record_layers(model)
    for expert in range(10):
        _, steered = run(model, steer(model, off(expert)))
        assert all((steered.ids(layer) != expert).all() for layer in specs)
        _, steered = run(model, steer(model, {"rule": "on", "experts": [expert]}))
        assert all((steered.ids(layer) == expert).any(-1).all() for layer in specs)


def record_layers(model: Any) -> list[int]:
    return [spec.layer for spec in find_routers(model)]


def test_a_huge_selection_bias_is_no_help_to_a_masked_expert():
    model: Any = family("deepseek_v3")
    gate = model.model.layers[1].mlp.gate
    before = gate.e_score_correction_bias.clone()
    try:
        gate.e_score_correction_bias[4] = 1e6
        assert (run(model)[1].ids(1) == 4).any(-1).all()
        assert (run(model, steer(model, off(4)))[1].ids(1) != 4).all()
        gate.e_score_correction_bias[4] = -1e6
        forced = run(model, steer(model, {"rule": "on", "experts": [4]}))[1]
        assert (forced.ids(1) == 4).any(-1).all()
    finally:
        gate.e_score_correction_bias.copy_(before)


def test_when_open_groups_have_too_few_experts_the_best_of_the_closed_ones_follow():
    model: Any = family("deepseek_v3")  # 10 experts in 2 groups, 1 open, 3 chosen
    gate = model.model.layers[1].mlp.gate
    assert (gate.num_experts, gate.num_group, gate.topk_group, gate.top_k) == (10, 2, 1, 3)
    _, steered = run(model, steer(model, {"rule": "keep_only", "experts": [1, 4, 7, 8, 9]}))
    scores_TE = steered.logits(1).sigmoid() + gate.e_score_correction_bias
    for ids, scores in zip(steered.ids(1).tolist(), scores_TE.tolist(), strict=True):
        first, second = [1, 4], [7, 8, 9]
        if sum(scores[e] for e in first) < sum(sorted(scores[e] for e in second)[1:]):
            first, second = second, first
        ranked = [e for group in (first, second) for e in sorted(group, key=lambda e: -scores[e])]
        assert sorted(ids) == sorted(ranked[:3])


def test_experts_of_closed_groups_that_take_a_slot_keep_their_weight():
    model: Any = family("deepseek_v2")
    gate = model.model.layers[1].mlp.gate
    assert (gate.num_experts, gate.num_group, gate.topk_group) == (10, 2, 1)
    _, steered = run(model, steer(model, {"rule": "keep_only", "experts": [3, 7]}))
    probability_TE = steered.logits(1).softmax(-1) * gate.routed_scaling_factor
    for ids, weights, own in zip(steered.ids(1), steered.weights(1), probability_TE, strict=True):
        assert sorted(ids[:2].tolist()) == [3, 7]
        torch.testing.assert_close(weights[:2], own[ids[:2]])


@pytest.mark.parametrize("name", ["olmoe", "deepseek_v3", "deepseek_v2", "gpt_oss", "granitemoe", "phimoe"])
def test_with_fewer_experts_than_k_what_is_left_is_used(name):
    model: Any = family(name)
    layers = record_layers(model)
    total = {layer: run(model)[1].weights(layer).sum(-1) for layer in layers[:1]}
    logits, steered = run(model, steer(model, {"rule": "keep_only", "experts": [6]}))
    assert torch.isfinite(logits).all()
    for layer in layers:
        assert (steered.ids(layer)[:, 0] == 6).all()
        assert (steered.ids(layer)[:, 1:] == -1).all()
        assert (steered.weights(layer)[:, 1:] == 0).all()
    if name in ("deepseek_v3", "gpt_oss", "granitemoe"):
        torch.testing.assert_close(steered.weights(layers[0]).sum(-1), total[layers[0]])


def test_dropping_experts_equals_a_model_with_a_smaller_k():
    model: Any = tiny_olmoe(num_experts_per_tok=3, norm_topk_prob=True)
    small = tiny_olmoe(num_experts_per_tok=1, norm_topk_prob=True)
    logits, _ = run(model, steer(model, {"rule": "top_k", "m": 1}))
    torch.testing.assert_close(logits, run(small)[0], rtol=1e-4, atol=1e-4)


def test_a_layer_without_weights_adds_nothing(model):
    class Seen:
        def __call__(self, module, args, output):
            self.output = output

    seen = Seen()
    handle = model.model.layers[1].mlp.register_forward_hook(seen)
    run(model, steer(model, {"rule": "zero", "experts": "all", "layers": [1]}))
    handle.remove()
    assert (seen.output == 0).all()


@pytest.mark.parametrize(
    "rule",
    [
        {"rule": "bias", "experts": [1, 2], "amount": 0.0},
        {"rule": "scale", "experts": "all", "amount": 1.0},
        {"rule": "temperature", "amount": 1},
        {"rule": "keep_only", "experts": "all"},
        {"rule": "keep_only", "experts": list(range(8))},
        {"rule": "top_k", "m": 2},
        {"rule": "top_p", "q": 1.5},
        {"rule": "prune_ratio", "mu": 0},
        {"rule": "null_experts", "m": 0, "k": 2},
        {"rule": "vector", "vector": [0.0] * 8},
        {"rule": "off", "experts": [3], "span": {"from": 1000}},
    ],
    ids=lambda rule: rule["rule"],
)
def test_neutral_rules_leave_the_output_bit_identical(model, rule):
    assert torch.equal(run(model)[0], run(model, steer(model, rule))[0])


def test_nothing_stays_attached_after_an_exception():
    model: Any = tiny_olmoe()
    clean = run(model)[0]

    def explode(*_):
        raise RuntimeError("inside the router's forward")

    handle = model.model.layers[1].mlp.gate.register_forward_hook(explode)
    with pytest.raises(RuntimeError, match="inside the router"):
        run(model, steer(model, off(2)))
    handle.remove()
    assert hooks(model) == 0
    scores = torch.rand(2, 8)
    assert torch.equal(scores.topk(2).indices, torch.topk(scores, 2).indices)
    assert torch.equal(run(model)[0], clean)


def test_an_error_in_the_body_takes_the_steering_back(model):
    with pytest.raises(ValueError, match="body"), steer(model, off(2)):
        raise ValueError("body")
    assert hooks(model) == 0


def test_contexts_on_one_model_add_up_in_their_order(model):
    on, gone = {"rule": "on", "experts": [2]}, off(2)
    assert (run(model, steer(model, on), steer(model, gone))[1].ids(0) != 2).all()
    assert (run(model, steer(model, gone), steer(model, on))[1].ids(0) == 2).any(-1).all()
    assert torch.equal(
        run(model, steer(model, on, gone))[0], run(model, steer(model, on), steer(model, gone))[0]
    )
    both = Steering([on]) + Steering([gone])
    assert torch.equal(run(model, both.applied(model))[0], run(model, steer(model, on, gone))[0])


def test_recording_shows_what_is_executed_whoever_came_first(model):
    with (
        torch.no_grad(),
        record_routing(model) as outer,
        steer(model, off(3)),
        record_routing(model) as inner,
    ):
        model(IDS)
    assert torch.equal(outer.ids(1), inner.ids(1))
    assert (outer.ids(1) != 3).all()


def test_sequences_of_a_batch_are_steered_apart_and_exactly(model):
    rules = Steering([off(3), {"rule": "bias", "experts": [1], "amount": 0.5}])
    others = Steering([{"rule": "top_k", "m": 1}])
    logits, routing = run(model, PerSequence([None, rules, others]).applied(model))
    # Matrix kernels may round by how many rows share an expert; the choices are the same to the bit.
    alone = [run(model, *contexts) for contexts in ((), (rules.applied(model),), (others.applied(model),))]
    for i, (own, own_routing) in enumerate(alone):
        torch.testing.assert_close(logits[i], own[i], rtol=1e-4, atol=1e-5)
        rows = slice(8 * i, 8 * i + 8)
        for layer in range(3):
            assert torch.equal(routing.ids(layer)[rows], own_routing.ids(layer)[rows])
        assert torch.equal(routing.weights(0)[rows], own_routing.weights(0)[rows])


def test_each_sequence_is_repeated_where_the_batch_is_a_multiple(model):
    rules = Steering([off(3)])
    ids = IDS[:2].repeat_interleave(2, dim=0)
    logits, routing = run(model, PerSequence([rules, None]).applied(model), ids=ids)
    plain, base = run(model, ids=ids)
    # Equal rows at other places of a matrix product may round differently; their choices do not.
    for one, other in ((logits[0], logits[1]), (logits[2], logits[3]), (logits[2], plain[2])):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for layer in range(3):
        chosen = routing.ids(layer).reshape(4, 8, -1)
        assert torch.equal(chosen[0], chosen[1])
        assert torch.equal(chosen[2:], base.ids(layer).reshape(4, 8, -1)[2:])
    assert (routing.ids(0)[:16] != 3).all()
    with pytest.raises(SteeringError, match="4 sequences, but steering was given for 3"):
        run(model, PerSequence([rules, None, None]).applied(model), ids=ids)


def test_an_assignment_can_change_between_forwards(model):
    rules, clean = Steering([off(3)]), run(model)[0]
    with PerSequence([None, None, None]).applied(model) as applied, torch.no_grad():
        assert torch.equal(model(IDS).logits, clean)
        applied.assign([None, rules, None])
        changed = model(IDS).logits
        applied.assign([None, None, None])
        assert torch.equal(model(IDS).logits, clean)
    # The steered rows share experts with their neighbours, so a matrix kernel may round those differently.
    torch.testing.assert_close(changed[[0, 2]], clean[[0, 2]], rtol=1e-4, atol=1e-5)
    assert (changed[1] - clean[1]).abs().max() > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_count_without_padding(model, side):
    mask = MASK.clone()
    mask[1, :3] = 0
    mask = mask if side == "left" else mask.flip(1)
    _, steered = run(model, steer(model, off(3, span={"from": 2, "to": 4})), mask=mask)
    _, base = run(model, mask=mask)
    position = (mask.cumsum(1) - 1).flatten()
    inside = (position >= 2) & (position < 4) & mask.flatten().bool()
    assert (steered.ids(0)[inside] != 3).all()
    assert torch.equal(
        steered.ids(0)[~inside & mask.flatten().bool()], base.ids(0)[~inside & mask.flatten().bool()]
    )


def test_padding_is_no_part_of_the_prompt(model):
    mask = MASK.clone()
    mask[0, :3] = 0
    _, base = run(model, mask=mask)
    padding = ~mask.flatten().bool()
    often = int(base.ids(0)[padding].flatten().mode().values)
    _, steered = run(model, steer(model, off(often, layers=[0], span="prompt")), mask=mask)
    assert (steered.ids(0)[~padding] != often).all()
    assert torch.equal(steered.ids(0)[padding], base.ids(0)[padding])


def test_prompt_and_generation_are_told_apart_while_generating(model):
    ids, mask = IDS.clone(), MASK.clone()
    ids[0, :3], mask[0, :3] = 0, 0
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    for span, inside in (("prompt", slice(None, 24)), ("generation", slice(24, None))):
        rules = off(3, span=span), {"rule": "on", "experts": [5], "span": span}
        with steer(model, *rules), record_routing(model) as routing:
            model.generate(input_ids=ids, attention_mask=mask, **options)
        chosen = routing.ids(0)
        assert (chosen[inside] != 3).all()
        assert (chosen[inside] == 5).any(-1).all()
        outside = slice(24, None) if span == "prompt" else slice(None, 24)
        assert (chosen[outside] == 3).any()
        assert not (chosen[outside] == 5).any(-1).all()


def test_positions_go_on_in_the_cache(model):
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    with steer(model, {"rule": "on", "experts": [5], "span": {"from": 10}}), record_routing(model) as routing:
        model.generate(input_ids=IDS[:1], attention_mask=MASK[:1], **options)
    on = (routing.ids(0) == 5).any(-1)
    assert on[10:].all()
    assert not on[:10].all()


def test_given_prompt_lengths_split_a_teacher_forced_text(model):
    rule = {"rule": "on", "experts": [5], "span": "generation"}
    _, steered = run(model, steer(model, rule, prompt_lengths=[2, 8, 5]))
    on = (steered.ids(0) == 5).any(-1).reshape(3, 8)
    base = (run(model)[1].ids(0) == 5).any(-1).reshape(3, 8)
    assert on[0, 2:].all()
    assert on[2, 5:].all()
    assert torch.equal(on[1], base[1])


def test_encoder_and_decoder_are_steered_by_stream():
    model: Any = family("switch_transformers")
    batch = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": IDS[:, :5]}
    with torch.no_grad(), steer(model, off(2, stream="encoder")), record_routing(model) as routing:
        model(**batch)
    with torch.no_grad(), record_routing(model) as base:
        model(**batch)
    layers = {
        stream: [s.layer for s in base.routers if s.stream == stream] for stream in ("encoder", "decoder")
    }
    assert all((routing.ids(layer, "encoder") != 2).all() for layer in layers["encoder"])
    logits_TE = routing.logits(layers["encoder"][0], "encoder")
    assert logits_TE is not None
    assert torch.equal(logits_TE.isinf().sum(0), torch.tensor([0, 0, 24] + [0] * 7))
    sequences = PerSequence([None, Steering([off(2, stream="encoder")]), None])
    with torch.no_grad(), sequences.applied(model), record_routing(model) as apart:
        model(**batch)
    first = layers["encoder"][0]
    assert torch.equal(apart.ids(first, "encoder")[:8], base.ids(first, "encoder")[:8])
    assert torch.equal(apart.ids(first, "encoder")[8:16], routing.ids(first, "encoder")[8:16])


def test_bfloat16_is_steered_in_its_own_precision():
    model: Any = tiny_olmoe().bfloat16()
    logits, steered = run(model, steer(model, off(3), {"rule": "bias", "experts": [1], "amount": 0.5}))
    assert torch.isfinite(logits).all()
    assert steered.weights(0).dtype == torch.bfloat16
    assert (steered.ids(0) != 3).all()


def test_gradients_pass_through_a_vector(model):
    delta = torch.zeros(8, requires_grad=True)
    with Steering([Rule("vector", (0,), options={"vector": {0: delta}})]).applied(model):
        model(IDS).logits.logsumexp(-1).mean().backward()
    assert delta.grad is not None
    assert delta.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([off(3, layers=[7])], r"no router in layer 7 \(there are routers in layer 0, 1, 2\)"),
        ([off(99)], "no expert 99 in layer 0, which has 8"),
        ([off(0, stream="vision")], "no routers of the stream 'vision'"),
        ([{"rule": "off", "experts": "all"}], "no expert is left in layer 0"),
        ([{"rule": "on", "experts": [1, 2, 3]}], "3 experts are on in layer 0 .* a token uses 2"),
        ([{"rule": "prune_ratio"}], "no ratio for layer 0"),
        ([{"rule": "vector", "vector": [1.0]}], "a vector of 1 numbers for layer 0, which has 8"),
    ],
)
def test_what_does_not_fit_the_model_is_said_before_it_runs(model, rules, message):
    steering = Steering(rules)
    with pytest.raises(SteeringError, match=message), steering.applied(model):
        pass
    assert any(re.search(message, problem) for problem in steering.validate(model))
    assert hooks(model) == 0


def test_logits_of_a_hash_router_are_passed_over_or_refused():
    model: Any = family("deepseek_v4")
    hashed = [spec.layer for spec in run(model)[1].routers if not spec.steerable]
    assert hashed
    _, steered = run(model, steer(model, off(3)))
    assert (steered.ids(max(record_layers(model))) != 3).all()
    with pytest.raises(SteeringError, match="no logits to edit"), steer(model, off(3, layers=hashed)):
        pass
    _, scaled = run(model, steer(model, {"rule": "scale", "experts": "all", "beta": 2.0, "layers": hashed}))
    torch.testing.assert_close(scaled.weights(hashed[0]), 2 * run(model)[1].weights(hashed[0]))


def test_a_router_whose_linear_layer_was_replaced_is_not_steered_in_silence():
    model: Any = tiny_olmoe()
    gate = model.model.layers[0].mlp.gate
    gate.forward = lambda hidden: (
        (z := (hidden.reshape(-1, 32)[:, None] * gate.weight).sum(-1)),
        *(lambda top: (top.values, top.indices))(z.softmax(-1).topk(2)),
    )
    with pytest.raises(SteeringError, match="could not be edited"):
        run(model, steer(model, off(3)))

"""Recording: what is recorded is what was executed, and nothing is left behind."""

from typing import Any

import pytest
import torch
from tiny import NINE, executed, family, tiny_olmoe
from torch import nn

from moescope.tracer import find_routers, record_routing
from moescope.tracer.errors import CaptureError, UnknownRouterError
from moescope.tracer.hooks.record import attach
from moescope.tracer.routers.passages import Call, ExpertsCall, by_weight

IDS = torch.arange(4, 18).reshape(2, 7)


@pytest.mark.parametrize("name", NINE)
def test_ids_and_weights_are_those_that_the_experts_received(name):
    model: Any = family(name)
    specs: Any = find_routers(model)
    seen = {}

    def run():
        with record_routing(model) as routing:
            model(input_ids=IDS)
            model.generate(input_ids=IDS, max_new_tokens=3, min_new_tokens=3, do_sample=False)
        seen["routing"] = routing

    received = executed(model, [spec.experts for spec in specs], run)
    routing = seen["routing"]
    for spec in specs:
        ids, weights = (torch.cat(parts) for parts in zip(*received[spec.experts], strict=True))
        assert torch.equal(routing.ids(spec.layer), ids)
        assert torch.equal(routing.weights(spec.layer), weights)
        assert ids.shape == (14 + 14 + 2 + 2, spec.top_k)
        assert routing.logits(spec.layer).shape == (len(ids), spec.num_experts)
        assert routing.probabilities(spec.layer).dtype == torch.float32


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_every_implementation_of_experts_is_recorded_alike(implementation):
    model: Any = tiny_olmoe()
    model.set_experts_implementation(implementation)
    with torch.no_grad(), record_routing(model) as routing:
        model(IDS)
    with torch.no_grad(), record_routing(reference := tiny_olmoe()) as expected:
        reference(IDS)
    assert torch.equal(routing.ids(0), expected.ids(0))
    torch.testing.assert_close(routing.weights(2), expected.weights(2))


def test_recording_changes_nothing_and_leaves_nothing():
    model: Any = tiny_olmoe()
    with torch.no_grad():
        clean = model(IDS).logits
        with record_routing(model):
            assert torch.equal(model(IDS).logits, clean)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ZeroDivisionError), record_routing(model):
        raise ZeroDivisionError
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_two_recordings_of_one_model_see_the_same():
    model: Any = tiny_olmoe()
    with torch.no_grad(), record_routing(model) as outer:
        with record_routing(model) as inner:
            model(IDS)
        model(IDS)
    assert torch.equal(outer.ids(1)[:14], inner.ids(1))
    assert len(outer.ids(1)) == 28


def test_a_sink_is_called_once_a_router_and_call_in_forward_order():
    calls = []

    class Sink:
        def routed(self, spec, expert_ids_TK, weights_TK, logits_TE):
            calls.append((spec.layer, tuple(expert_ids_TK.shape), tuple(logits_TE.shape)))

    model: Any = tiny_olmoe()
    with torch.no_grad(), attach(model, Sink(), routers=find_routers(model)[1:]):
        model(IDS)
        model(IDS[:1])
    assert calls == [(1, (14, 2), (14, 8)), (2, (14, 2), (14, 8)), (1, (7, 2), (7, 8)), (2, (7, 2), (7, 8))]


def test_only_the_wanted_routers_are_recorded():
    model: Any = tiny_olmoe()
    specs = find_routers(model)
    with torch.no_grad(), record_routing(model, routers=specs[:1]) as routing:
        model(IDS)
    assert routing.routers == specs[:1]
    with pytest.raises(KeyError, match=r"no router in layer 1.*layers 0 \(decoder\)"):
        routing.ids(1)
    with (
        pytest.raises(UnknownRouterError, match="no router at nowhere"),
        record_routing(
            model,
            routers=[find_routers(model)[0].__class__(layer=0, num_experts=2, top_k=1, router="nowhere")],
        ),
    ):
        pass


def test_a_layer_that_nothing_ran_through_is_not_an_empty_answer():
    with record_routing(tiny_olmoe()) as routing:
        pass
    with pytest.raises(CaptureError, match=r"no routing was recorded at model\.layers\.0\.mlp\.gate"):
        routing.ids(0)


def test_no_gradient_hangs_on_what_is_recorded():
    model: Any = tiny_olmoe()
    routing: Any
    with record_routing(model) as routing:
        model(IDS)
    assert not routing.weights(0).requires_grad
    assert not routing.logits(0).requires_grad


def test_order_is_by_weight_and_ties_keep_the_routers_order():
    ids = torch.tensor([[5, 1, 9], [4, 3, 2]])
    weights = torch.tensor([[0.2, 0.5, 0.2], [0.1, 0.3, 0.3]])
    ordered, sorted_weights = by_weight(ids, weights)
    assert sorted_weights is not None
    assert ordered.tolist() == [[1, 5, 9], [3, 2, 4]]
    assert torch.equal(sorted_weights, weights.sort(descending=True, stable=True).values)
    assert by_weight(ids, None)[0] is ids


@pytest.mark.parametrize("by_name", [False, True])
def test_a_decision_is_found_by_position_or_name_in_any_order(by_name):
    hidden, ids, weights = torch.rand(4, 2), torch.tensor([[0, 1]] * 4), torch.rand(4, 2)
    passage, module = ExpertsCall(), nn.Identity()
    call = (
        Call(module, (hidden,), {"weights": weights, "indices": ids})
        if by_name
        else Call(module, (hidden, ids, weights), {})
    )
    got = passage.read(call)
    assert got[0] is ids
    assert got[1] is weights
    passage.write(call, ids + 1, weights * 2)
    torch.testing.assert_close(passage.read(call), (ids + 1, weights * 2), rtol=0, atol=0)


def test_experts_called_without_ids_are_an_error_that_names_them():
    model: Any = tiny_olmoe()
    block = model.model.layers[1].mlp
    block.forward = lambda hidden: (block.gate(hidden), block.experts(hidden, None, None))[1]
    message = r"model\.layers\.1\.mlp\.experts.*without a tensor of expert ids"
    with pytest.raises(CaptureError, match=message), torch.no_grad(), record_routing(model):
        model(IDS)

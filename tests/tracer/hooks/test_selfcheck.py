"""The run-time self-check: right models pass, and each way of being wrong is noticed and named."""

from typing import Any

import pytest
import torch
from tiny import NINE, family, tiny_olmoe

from moescope.tracer import Steering
from moescope.tracer.errors import CaptureError
from moescope.tracer.hooks.selfcheck import examined, self_check
from moescope.tracer.routers import adapters
from moescope.tracer.routers.passages import ExpertsCall

IDS = torch.arange(4, 18).reshape(2, 7)


@pytest.mark.parametrize("name", [*NINE, "llama4", "jetmoe", "zaya", "switch_transformers", "gemma4", "doge"])
def test_right_models_pass(name):
    model: Any = family(name)
    batch = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.no_grad(), self_check(model) as check:
        model(input_ids=IDS, **batch)
    for router in check.routers:
        assert router.rows == 14
        assert router.slots == 14 * (router.spec.top_k or 0)
        assert router.executed is not False
        assert router.explained is not False
    if name in NINE:
        assert all(router.executed for router in check.routers)
        assert all(router.explained for router in check.routers) or name == "phimoe"
    assert "forward" not in vars(model.get_submodule(check.routers[0].spec.router))


def test_a_call_that_hooks_do_not_see_is_noticed():
    """As with a kernel that replaces a module's call: the experts run, and nothing is recorded."""
    model: Any = tiny_olmoe()
    block = model.model.layers[1].mlp
    experts, gate = block.experts, block.gate

    def forward(hidden):
        _, weights, ids = gate.forward(hidden.reshape(-1, 32))
        return experts.forward(hidden.reshape(-1, 32), ids, weights).reshape(hidden.shape)

    block.forward = forward
    with pytest.raises(CaptureError, match=r"model\.layers\.1\.mlp\.(experts|gate)"), self_check(model):
        model(IDS)


def test_experts_called_with_other_weights_than_recorded_are_noticed():
    model: Any = tiny_olmoe()
    with examined(model) as check, torch.no_grad():
        experts = model.model.layers[2].mlp.experts

        def meddle(module, args):
            return args[0], args[1], args[2] * 2

        handle = experts.register_forward_pre_hook(meddle)
        model(IDS)
        handle.remove()
    assert check.problems == [
        "model.layers.2.mlp.experts was called with other experts or weights than were recorded"
    ]


def test_a_wrong_scoring_function_is_noticed(monkeypatch):
    monkeypatch.setattr("moescope.tracer.routers.find.scoring_of", lambda *_: "sigmoid")
    model: Any = tiny_olmoe()
    with (
        pytest.raises(
            CaptureError, match=r"the logits of model\.layers\.0\.mlp\.gate do not explain its weights"
        ),
        torch.no_grad(),
        self_check(model),
    ):
        model(IDS)


class NextExpert(ExpertsCall):
    def read(self, call):
        ids_TK, weights_TK = super().read(call)
        return (ids_TK + 1) % 8, weights_TK


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"passage": NextExpert()}, r"model\.layers\.0\.mlp\.experts was called with other experts"),
        ({"logits": lambda call: -call.output[0]}, r"logits of model\.layers\.0\.mlp\.gate do not explain"),
        ({"scoring": "sigmoid"}, r"logits of model\.layers\.0\.mlp\.gate do not explain"),
        ({"num_experts": 3}, r"model\.layers\.0\.mlp\.gate chose an expert beyond its 3"),
        ({"top_k": 3}, r"model\.layers\.0\.mlp\.gate recorded 28 choices for 14 tokens x 3"),
    ],
)
def test_a_wrong_adapter_is_noticed_and_its_module_named(monkeypatch, fields, message):
    monkeypatch.setitem(adapters.ADAPTERS, "OlmoeTopKRouter", lambda block: fields)
    model: Any = tiny_olmoe()
    with pytest.raises(CaptureError, match=message), torch.no_grad(), self_check(model):
        model(IDS)


def test_a_layer_that_was_passed_over_is_noticed():
    model: Any = tiny_olmoe()
    model.model.layers[1].mlp.forward = lambda hidden: hidden
    message = r"model\.layers\.1\.mlp\.gate saw 0 tokens, another router 14"
    with pytest.raises(CaptureError, match=message), torch.no_grad(), self_check(model):
        model(IDS)


def test_nothing_running_at_all_is_noticed():
    with pytest.raises(CaptureError, match="no router was called at all"), self_check(tiny_olmoe()):
        pass


def test_an_error_of_the_model_is_not_covered_up():
    with pytest.raises(ZeroDivisionError), self_check(tiny_olmoe()):
        raise ZeroDivisionError


def test_steered_routing_passes_too():
    model: Any = tiny_olmoe()
    rules = [
        {"rule": "top_k", "m": 1},
        {"rule": "off", "experts": [2]},
        {"rule": "keep_only", "experts": [5]},
    ]
    for rule in rules:
        with torch.no_grad(), Steering([rule]).applied(model), self_check(model):
            model(IDS)

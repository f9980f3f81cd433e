"""Learned vectors: plain gradient descent on the context, everything else frozen."""

from typing import Any

import pytest
import torch
from tiny import family, tiny_olmoe

from moescope.tracer import Steering, record_routing
from moescope.tracer.errors import SteeringError
from moescope.tracer.steering.learn_vector import learn_vector

IDS = torch.arange(4, 34).reshape(2, 15) % 11 + 4


def losses(model: Any, **options: Any) -> tuple[Steering, list[float]]:
    seen: list[float] = []
    steering = learn_vector(model, IDS, on_step=lambda _, loss: seen.append(loss), **options)
    return steering, seen


@pytest.mark.parametrize("name", ["olmoe", "deepseek_v3", "gpt_oss"])
def test_the_loss_on_the_context_falls(name):
    _, seen = losses(family(name), steps=5, lr=0.05)
    assert len(seen) == 6
    assert seen[-1] < seen[0]


def test_one_step_follows_the_slope_by_finite_differences():
    model: Any = tiny_olmoe()
    lr, step = 1.0, 3e-2
    steering, seen = losses(model, steps=1, lr=lr)
    learned = torch.tensor(steering.rules[0].vector_in(0))

    def loss(delta: torch.Tensor) -> float:
        rule = {"rule": "vector", "layers": [0], "vector": delta.tolist()}
        with Steering([rule]).applied(model), torch.no_grad():
            logits = model(input_ids=IDS, use_cache=False).logits[:, :-1].double()
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten()))

    # Along the gradient itself the loss changes by its squared length, where no choice flips in between.
    slope = -learned / lr
    direction = slope / slope.norm() * 1e-3
    change = (loss(direction) - loss(-direction)) / 2e-3
    assert seen[0] == pytest.approx(loss(torch.zeros(8)), rel=1e-5)
    assert change == pytest.approx(float(slope.norm()), rel=step)


def test_no_steps_change_nothing_at_all():
    model: Any = tiny_olmoe()
    steering = learn_vector(model, IDS, steps=0)
    with torch.no_grad():
        clean = model(IDS).logits
        with steering.applied(model):
            assert torch.equal(model(IDS).logits, clean)


def test_weights_stay_frozen_and_as_they_were():
    model: Any = tiny_olmoe()
    before = {name: p.clone() for name, p in model.named_parameters()}
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    with torch.inference_mode():
        learn_vector(model, IDS, steps=2)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wanted


@pytest.mark.parametrize("layers", ["most_confident", "least_confident"])
def test_the_half_of_the_layers_is_chosen_by_confidence(layers):
    model: Any = tiny_olmoe(num_hidden_layers=4)
    routing: Any
    with torch.no_grad(), record_routing(model) as routing:
        model(IDS)
    confidence = [float(routing.probabilities(i).gather(-1, routing.ids(i)).log().mean()) for i in range(4)]
    order = sorted(range(4), key=lambda i: confidence[i], reverse=layers == "most_confident")
    steering = learn_vector(model, IDS, steps=1, layers=layers)
    assert steering.rules[0].layers == tuple(sorted(order[:2]))


def test_it_goes_on_from_where_it_was():
    model: Any = tiny_olmoe()
    once, _ = losses(model, steps=4, lr=0.5)
    twice = learn_vector(model, IDS, steps=2, lr=0.5, start=learn_vector(model, IDS, steps=2, lr=0.5))
    for layer in range(3):
        torch.testing.assert_close(
            torch.tensor(twice.rules[0].vector_in(layer)), torch.tensor(once.rules[0].vector_in(layer))
        )
    assert Steering.from_json(twice.to_json()) == twice


def test_padding_takes_no_part():
    model: Any = tiny_olmoe()
    alone = learn_vector(model, IDS[:1, :9], steps=1)
    mask = torch.ones(1, 15, dtype=torch.long)
    mask[:, 9:] = 0
    padded = learn_vector(model, IDS[:1], attention_mask=mask, steps=1)
    for layer in range(3):
        torch.testing.assert_close(
            torch.tensor(padded.rules[0].vector_in(layer)),
            torch.tensor(alone.rules[0].vector_in(layer)),
            rtol=1e-3,
            atol=1e-7,
        )


def test_what_it_cannot_learn_from_is_refused():
    with pytest.raises(SteeringError, match="at least two tokens"):
        learn_vector(tiny_olmoe(), IDS[:1, :1])
    with pytest.raises(SteeringError, match="needs a tokenizer"):
        learn_vector(tiny_olmoe(), "some text")

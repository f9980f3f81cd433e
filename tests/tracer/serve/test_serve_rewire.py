"""/v1/rewire learns what `learn_vector` learns, and touches nobody who generates meanwhile."""

from __future__ import annotations

import threading

import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe

from moescope.tracer import Steering
from moescope.tracer.client import ServerError, connect
from moescope.tracer.serve.engine.served import Served
from moescope.tracer.serve.server import serve_in_background
from moescope.tracer.steering.learn_vector import learn_vector

TEXT = "Where is the library? It is beside the river."
OFF = {"rules": [{"rule": "off", "layers": [1], "experts": [1, 4]}]}


@pytest.fixture(scope="module")
def address():
    with serve_in_background(lambda: Served.of(tiny_olmoe(), character_tokenizer())) as address:
        assert address.engine.wait_ready(60)
        yield address


@pytest.fixture
def client(address):
    return connect(address.url, address.token)


def here(text=TEXT, **options) -> tuple[Steering, list[float]]:
    """The same without a server."""
    losses: list[float] = []
    ids = torch.tensor([character_tokenizer()(text)["input_ids"]])
    learned = learn_vector(tiny_olmoe(), ids, on_step=lambda _, loss: losses.append(loss), **options)
    return learned, losses


@pytest.mark.parametrize("options", [{}, {"steps": 2, "layers": "most_confident"}, {"steps": 0}])
def test_the_vectors_are_those_of_learn_vector_and_the_losses_too(client, options):
    answer = client.rewire(TEXT, **options)
    learned, losses = here(**options)
    assert answer["steering"] == learned.to_json()
    assert answer["losses"] == losses
    assert answer["layers"] == list(learned.rules[0].layers or ())
    assert (answer["loss_before"], answer["loss_after"]) == (losses[0], losses[-1])


def test_five_steps_lower_the_loss_and_going_on_lowers_it_further(client):
    first = client.rewire(TEXT)
    again = client.rewire(TEXT, start=first["steering"])
    assert first["loss_after"] < first["loss_before"]
    assert again["loss_before"] == pytest.approx(first["loss_after"], abs=1e-6)
    assert again["loss_after"] < first["loss_after"]


def test_a_profile_acts_while_they_are_learned(client):
    assert client.rewire(TEXT, steering=OFF)["loss_before"] != client.rewire(TEXT)["loss_before"]


def test_who_generates_meanwhile_gets_what_he_gets_alone(client):
    def tokens(profile):
        return [
            e["token_id"] for e in client.generate(TEXT, steering=profile, max_new_tokens=30) if "side" in e
        ]

    alone = [tokens(None), tokens(OFF)]
    learning = threading.Thread(target=client.rewire, args=(TEXT,), kwargs={"steps": 100})
    learning.start()
    meanwhile = [tokens(None), tokens(OFF)]
    assert learning.is_alive()
    learning.join()
    assert meanwhile == alone == [tokens(None), tokens(OFF)]


VECTOR = {"rule": "vector", "layers": [0], "vector": {"0": [0.5] * 8}}


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (OFF["rules"], "a single vector rule only; the rules are: off"),
        ([VECTOR, VECTOR], "the rules are: vector, vector"),
        ([VECTOR, *OFF["rules"]], "the rules are: vector, off"),
        ([VECTOR | {"vector": {"0": [0] * 5}}], "a vector of 5 numbers for layer 0, which has 8 experts"),
    ],
)
def test_what_it_cannot_go_on_from_is_said(client, rules, says):
    with pytest.raises(ServerError, match=says) as refused:
        client.rewire(TEXT, start={"rules": rules})
    assert (refused.value.status, refused.value.field) == (422, "start")

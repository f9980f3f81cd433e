"""What /v1/generate answers is what the model alone would do, however many others ask at the same time."""

from __future__ import annotations

import threading
import time
from functools import cache

import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe

from moescope.tracer import Steering, record_routing
from moescope.tracer.client import ServerError, connect
from moescope.tracer.serve.engine.served import Served
from moescope.tracer.serve.server import serve_in_background

PROMPT = "Where is the library?"
OFF = {"rules": [{"rule": "off", "layers": [0, 1, 2], "experts": [1, 4, 6]}]}
PROFILES = [
    None,
    OFF,
    {"rules": [{"rule": "on", "layers": [1], "experts": [3]}]},
    {"rules": [{"rule": "bias", "layers": "all", "experts": [0, 2], "amount": 2.0}]},
    {"rules": [{"rule": "top_k", "layers": "all", "amount": 1}]},
    {"rules": [{"rule": "temperature", "layers": [0, 2], "amount": 3.0}]},
    {"rules": [{"rule": "keep_only", "layers": [2], "experts": [0, 1, 2, 3]}]},
    {"rules": [{"rule": "off", "layers": [1], "experts": [0, 1, 2], "span": "generation"}]},
    {"rules": [{"rule": "zero", "layers": "all", "experts": [5], "span": {"from": 4}}]},
    {"rules": [{"rule": "scale", "layers": [0], "experts": [2, 3], "amount": 2.5, "span": "prompt"}]},
]


@pytest.fixture(scope="module")
def address():
    def load():
        model, tokenizer = tiny_olmoe(), character_tokenizer(chat=True)
        return Served.of(model, tokenizer, {"name": "tiny"})

    with serve_in_background(load) as address:
        assert address.engine.wait_ready(60)
        yield address


@pytest.fixture
def client(address):
    return connect(address.url, address.token)


@cache
def alone():
    """A model of one's own, for what requests are compared with."""
    return tiny_olmoe(), character_tokenizer()


@cache
def greedy(number, new=24, prompt=PROMPT):
    """Token ids under a profile, and the experts that predicted them, by a plain loop without a cache."""
    model, tokenizer = alone()
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    length, last_rows = ids.shape[1], []
    steering = Steering(PROFILES[number]["rules"]) if PROFILES[number] else Steering()
    with torch.no_grad(), steering.applied(model, prompt_lengths=length), record_routing(model) as routing:
        for _ in range(new):
            logits = model(ids, use_cache=False).logits[0, -1]
            last_rows.append(ids.shape[1] + sum(last_rows[-1:]))
            ids = torch.cat([ids, logits.argmax().reshape(1, 1)], -1)
            if int(ids[0, -1]) == model.config.eos_token_id:
                break
        rows = torch.tensor(last_rows) - 1
        chosen = {str(layer): routing.ids(layer)[rows].tolist() for layer in range(3)}
    experts = [{k: [e for e in ids[i] if e >= 0] for k, ids in chosen.items()} for i in range(len(rows))]
    return ids[0, length:].tolist(), experts


def tokens_of(events, side):
    return [event["token_id"] for event in events if event.get("side") == side]


@pytest.mark.parametrize("number", range(len(PROFILES)))
def test_a_request_gives_the_tokens_and_experts_of_a_plain_loop(client, number):
    *events, end = client.generate(PROMPT, steering=PROFILES[number], max_new_tokens=24)
    side = "base" if PROFILES[number] is None else "steered"
    expected, experts = greedy(number)
    assert tokens_of(events, side) == expected
    assert [event["experts"] for event in events] == experts
    assert end["done"] is True
    assert end[side]["token_ids"] == expected
    assert end[side]["text"] == "".join(event["text"] for event in events)


@pytest.mark.parametrize("number", range(1, len(PROFILES)))
def test_both_sides_of_a_comparison_are_what_each_is_alone(client, number):
    events = list(client.generate(PROMPT, steering=PROFILES[number], compare=True, max_new_tokens=24))
    assert tokens_of(events, "base") == greedy(0)[0]
    assert tokens_of(events, "steered") == greedy(number)[0]


def test_kl_is_that_of_two_plain_passes_over_each_sides_own_text(client):
    model, tokenizer = alone()
    prompt = tokenizer(PROMPT)["input_ids"]
    events = list(client.generate(PROMPT, steering=OFF, compare=True, max_new_tokens=12))
    assert tokens_of(events, "base") != tokens_of(events, "steered")
    for side in ("base", "steered"):
        ids = torch.tensor([prompt + tokens_of(events, side)])
        with torch.no_grad():
            base = model(ids).logits.double().log_softmax(-1)
            with Steering(OFF["rules"]).applied(model):
                steered = model(ids).logits.double().log_softmax(-1)
        kl = (base.exp() * (base - steered)).sum(-1)[0, len(prompt) - 1 : -1]
        own = (base if side == "base" else steered)[0, len(prompt) - 1 : -1]
        logprob = own.gather(-1, ids[0, len(prompt) :].unsqueeze(-1)).squeeze(-1)
        mine = [event for event in events if event.get("side") == side]
        assert [event["kl"] for event in mine] == pytest.approx(kl.tolist(), abs=1e-5)
        assert [event["logprob"] for event in mine] == pytest.approx(logprob.tolist(), abs=1e-5)


def test_a_neutral_profile_changes_nothing(client):
    neutral = {"rules": [{"rule": "bias", "layers": "all", "experts": [1], "amount": 0.0}]}
    *events, _ = client.generate(PROMPT, steering=neutral, compare=True, max_new_tokens=16)
    assert tokens_of(events, "base") == tokens_of(events, "steered")
    assert max(abs(event["kl"]) for event in events) < 1e-6  # both stand at other places of one batch
    assert not any(event["changed"] for event in events)


def test_eight_and_more_people_steering_at_once_each_get_exactly_their_own(address):
    sampled = {"temperature": 1.3, "top_p": 0.9}
    wishes = [
        {"steering": profile, "max_new_tokens": 20, "compare": bool(number % 2), "seed": number}
        | (sampled if number % 3 == 0 else {})
        for number, profile in enumerate(PROFILES + PROFILES[1:5])
    ]
    prompts = [PROMPT[number % 5 :] for number in range(len(wishes))]

    def ask(number):
        client = connect(address.url, address.token, name=f"person {number}")
        return list(client.generate(prompts[number], **wishes[number]))

    by_itself = [ask(number) for number in range(len(wishes))]
    together, barrier = [[] for _ in wishes], threading.Barrier(len(wishes))

    def run(number):
        barrier.wait()
        together[number] = ask(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(wishes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == by_itself
    for number, wish in enumerate(wishes):
        if "temperature" not in wish:
            side = "steered" if wish["steering"] else "base"
            expected = greedy(number % len(PROFILES) + number // len(PROFILES), 20, prompts[number])[0]
            assert tokens_of(together[number], side) == expected


def test_sampling_depends_on_the_seed_alone(client):
    def ask(seed, **settings):
        return tokens_of(client.generate(PROMPT, temperature=1.5, seed=seed, **settings), "base")

    assert ask(1) == ask(1)
    assert len({tuple(ask(seed, max_new_tokens=8)) for seed in range(6)}) > 1
    assert ask(3, top_p=1e-9, max_new_tokens=8) == tokens_of(
        client.generate(PROMPT, max_new_tokens=8), "base"
    )


def test_messages_go_through_the_chat_template(client):
    model, tokenizer = alone()
    chat = [{"role": "user", "content": "Hello"}]
    *events, _ = client.generate(messages=chat, max_new_tokens=6)
    text = "<|user|>Hello\n<|assistant|>"
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        first = int(model(ids).logits[0, -1].argmax())
    assert events[0]["token_id"] == first


def test_candidates_are_the_likeliest_of_both_models(client):
    *events, _ = client.generate(PROMPT, steering=OFF, compare=True, max_new_tokens=4, candidates=3)
    for event in events:
        own = event["candidates"][event["side"]]
        assert own[0][:2] == [event["token_id"], event["token"]]
        assert own[0][2] == pytest.approx(event["logprob"])
        assert [len(rows) for rows in event["candidates"].values()] == [3, 3]


def test_a_client_that_goes_away_stops_its_generation(address, client):
    with client.generate(PROMPT, temperature=2.0, max_new_tokens=200) as events:
        next(events)
    deadline = time.monotonic() + 5
    while address.engine.depth["active"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert address.engine.depth["active"] == 0
    before = address.engine.steps_taken
    time.sleep(0.1)
    assert address.engine.steps_taken == before


def test_without_stream_there_is_one_json_with_the_same_tokens(client):
    streamed = list(client.generate(PROMPT, max_new_tokens=8))
    body = {"prompt": PROMPT, "max_new_tokens": 8, "stream": False}
    answer = client._connection.json("POST", "/v1/generate", body)
    assert answer["tokens"] == streamed[:-1]
    assert {**streamed[-1], "tokens": answer["tokens"]} == answer


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ({"rules": [{"rule": "explode"}]}, "there is no rule 'explode'"),
        ({"rules": [{"rule": "off", "layers": [7], "experts": [0]}]}, "no router in layer 7"),
        ({"rules": [{"rule": "off", "layers": [0], "experts": [8]}]}, "no expert 8 in layer 0, which has 8"),
        ({"no": "rules"}, "list of rules"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused_with_what_does_not_exist(client, profile, reason):
    with pytest.raises(ServerError, match=reason) as refusal:
        client.generate(PROMPT, steering=profile)
    assert (refusal.value.status, refusal.value.field) == (422, "steering")


def test_a_prompt_that_is_too_long_is_413_with_the_numbers(client):
    with pytest.raises(ServerError, match="has 301 tokens; at most 256 are allowed") as refusal:
        client.generate("x" * 300)
    assert (refusal.value.status, refusal.value.field) == (413, "prompt")
    with pytest.raises(ServerError, match="at most 55 can follow") as refusal:
        client.generate("x" * 200, max_new_tokens=60)
    assert (refusal.value.status, refusal.value.field) == (400, "max_new_tokens")

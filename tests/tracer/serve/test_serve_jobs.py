"""Scores, traces and evaluations of a served model: the same numbers as without a server."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe

from moescope.store import open_trace
from moescope.tracer import PromptSet, Steering, trace_prompts
from moescope.tracer.client import ServerError, connect
from moescope.tracer.evaluate.dose import dose_table
from moescope.tracer.evaluate.effects import Evaluation
from moescope.tracer.evaluate.run import evaluate
from moescope.tracer.serve.engine.served import Served
from moescope.tracer.serve.server import serve_in_background

OFF = {"rules": [{"rule": "off", "layers": [0, 2], "experts": [1, 4]}]}
ROWS = [
    {"id": "a", "text": "Where is the library?", "language": "en"},
    {"id": "b", "text": "~~{}~~ 0123", "language": "xx"},
    {"id": "c", "text": "It was", "completion": " a dark night", "language": "en"},
    {"id": "d", "text": "2 + 2 =", "choices": [" 4", " five", " none"], "answer": 1, "language": "xx"},
]


@pytest.fixture(scope="module")
def address():
    def load():
        return Served.of(tiny_olmoe(), character_tokenizer(), {"name": "tiny"})

    with serve_in_background(load) as address:
        assert address.engine.wait_ready(60)
        yield address


@pytest.fixture
def client(address):
    return connect(address.url, address.token)


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(tmp_path))
    return tmp_path


def test_a_score_is_that_of_an_evaluation(client):
    scored = client.score(ROWS, steering=OFF, compare=True)
    prompts = PromptSet.from_rows(ROWS)
    expected = evaluate(tiny_olmoe(), character_tokenizer(), prompts, Steering(OFF["rules"]), controls=0)
    own = expected.variants["profile"]
    for place, row in enumerate(scored["prompts"]):
        assert row["base"]["logprob"] == pytest.approx(-expected.base.nll_P[place], abs=1e-4)
        assert row["steered"]["logprob"] == pytest.approx(-own.nll_P[place], abs=1e-4)
        assert row["kl"] == pytest.approx(own.kl_P[place] / own.positions_P[place], abs=1e-6)
        assert row["changed"] == pytest.approx(own.changed_PL[place] / own.routed_P[place])
    chosen = scored["prompts"][3]["base"]
    assert max(chosen["choice_logprobs"]) == chosen["choice_logprobs"][chosen["chosen"]]
    assert chosen["correct"] == (chosen["chosen"] == 1)
    nll, tokens = expected.base.nll_P.sum(), expected.base.tokens_P.sum()
    assert scored["summary"]["base"]["perplexity"] == pytest.approx(2.718281828 ** (nll / tokens), rel=1e-4)
    assert scored["summary"]["base"]["accuracy"] == float(chosen["correct"])


def test_one_side_alone_is_that_side_of_the_comparison(client):
    both = client.score(ROWS, steering=OFF, compare=True)
    for side, steering in (("base", None), ("steered", OFF)):
        alone = client.score(ROWS, steering=steering)
        assert list(alone["summary"]) == [side]
        for one, two in zip(alone["prompts"], both["prompts"], strict=True):
            assert one[side]["logprob"] == pytest.approx(two[side]["logprob"], abs=1e-4)


def test_positions_carry_every_scored_token(client):
    body = {"prompts": ROWS[:1], "steering": OFF, "compare": True, "positions": True}
    (row,) = client._connection.json("POST", "/v1/score", body)["prompts"]
    (base,), (steered,) = row["base"]["positions"], row["steered"]["positions"]
    assert "".join(base["token"]) == ROWS[0]["text"]
    assert base["position"] == list(range(1, 22))
    assert sum(base["logprob"]) == pytest.approx(row["base"]["logprob"])
    assert sum(steered["kl"]) / 21 == pytest.approx(row["kl"])
    assert {layer for layers in steered["changed"] for layer in layers} <= {"0", "1", "2"}
    assert "kl" not in base


def test_a_prompt_beyond_the_models_positions_is_413(client):
    with pytest.raises(ServerError, match="the model takes at most 256") as refusal:
        client.score(["x" * 300])
    assert refusal.value.status == 413


def test_a_served_trace_is_the_trace(client, library):
    job = client.trace(ROWS, "mine", steering=OFF, batch_tokens=40)
    status = job.wait(0.01)
    assert status["state"] == "complete"
    assert status["progress"]["trace"] == str(library / "mine")
    trace_prompts(
        tiny_olmoe(), character_tokenizer(), PromptSet.from_rows(ROWS), library / "plain",
        steering=Steering(OFF["rules"]), batch_tokens=40,
    )  # fmt: skip
    mine, plain = open_trace(str(library / "mine")), open_trace(str(library / "plain"))
    assert mine.state == "complete"
    assert mine.events().equals(plain.events())
    assert mine.manifest.steering == plain.manifest.steering
    with pytest.raises(ServerError, match="already a trace 'mine'") as refusal:
        client.trace(ROWS, "mine")
    assert refusal.value.status == 409


def test_people_generate_while_a_trace_runs_and_neither_notices(address, library):
    rows = [{"id": str(i), "text": f"Prompt number {i}"} for i in range(120)]
    client = connect(address.url, address.token, name="someone")
    alone = list(client.generate("Where is", steering=OFF, compare=True, max_new_tokens=8))
    job = client.trace(rows, "shared", steering={"rules": [{"rule": "top_k", "amount": 1}]}, batch_tokens=30)
    meanwhile = []
    while job.status()["state"] in ("waiting", "running"):
        meanwhile.append(list(client.generate("Where is", steering=OFF, compare=True, max_new_tokens=8)))
    assert len(meanwhile) > 1
    assert all(events == alone for events in meanwhile)
    trace_prompts(
        tiny_olmoe(), character_tokenizer(), PromptSet.from_rows(rows), library / "plain",
        steering=Steering([{"rule": "top_k", "amount": 1}]), batch_tokens=30,
    )  # fmt: skip
    shared, plain = (open_trace(str(library / name)) for name in ("shared", "plain"))
    assert shared.events().equals(plain.events())


def test_a_cancelled_trace_keeps_what_is_committed_and_can_go_on(client, library):
    rows = [{"id": str(i), "text": f"Prompt number {i}"} for i in range(90)]
    job = client.trace(rows, "cut", batch_tokens=30)
    while not job.status()["progress"].get("tokens"):
        time.sleep(0.005)
    job.cancel()
    assert job.wait(0.01)["state"] == "cancelled"
    assert open_trace(str(library / "cut")).state == "partial"
    again = client.trace(rows, "cut", batch_tokens=30, resume=True)
    assert again.wait(0.02)["state"] == "complete"
    trace = open_trace(str(library / "cut"))
    assert (trace.state, trace.num_prompts) == ("complete", 90)


def test_a_served_evaluation_is_the_evaluation(client):
    job = client.evaluate(ROWS, OFF, by="language", target="xx")
    status = job.wait(0.02)
    expected = evaluate(
        tiny_olmoe(), character_tokenizer(), PromptSet.from_rows(ROWS), Steering(OFF["rules"])
    ).effects("language", target="xx")
    rows = status["result"]["effects"]
    assert [row["variant"] for row in rows] == expected["variant"].to_pylist()
    assert [row["change"] for row in rows] == pytest.approx(expected["change"].to_pylist(), abs=1e-5)
    again = Evaluation.from_json(status["result"]["evaluation"])
    assert again.effects("language", target="xx")["group"].to_pylist() == [row["group"] for row in rows]
    assert status["progress"]["done"] == status["progress"]["total"]


def test_doses_are_evaluated_by_name(client):
    doses = {"1": {"rules": []}, "2": OFF}
    body = {"prompts": ROWS, "variants": doses}
    job = client._start("evaluate", body)
    rows = job.wait(0.02)["result"]["effects"]
    changes = {row["variant"]: row["change"] for row in rows if row["measure"] == "kl"}
    assert changes["1"] == 0
    assert changes["2"] > 0


def test_a_dose_curve_is_made_on_the_server(client):
    dose = {"values": [0, 2], "ranking": [[0, 1], [2, 4], [1, 3]], "draws": 1}
    status = client.evaluate(ROWS, OFF, controls=0, dose=dose).wait(0.02)
    again = Evaluation.from_json(status["result"]["evaluation"])
    assert list(again.variants) == ["profile", "0", "2", "2 random 1"]
    assert (
        again.profiles["2"]["rules"]
        == Steering(
            [{"rule": "off", "layers": [0], "experts": [1]}, {"rule": "off", "layers": [2], "experts": [4]}]
        ).to_json()["rules"]
    )
    rows = dose_table(again, "language", target="xx").to_pylist()
    assert {(r["dose"], r["draw"]) for r in rows} == {(0, None), (2, None), (2, 1)}
    bias = {"rules": [{"rule": "bias", "layers": [0], "experts": [1], "amount": 1.0}]}
    status = client.evaluate(ROWS, bias, controls=0, dose={"values": [0.5, 2]}).wait(0.02)
    assert status["result"]["evaluation"]["profiles"]["0.5"]["rules"][0]["amount"] == 0.5


@pytest.mark.parametrize(
    ("dose", "status", "reason"),
    [
        ({"values": [1]}, 422, "no rule of the profile has an amount"),
        ({"values": [3], "ranking": [[0, 1]]}, 422, "whole numbers up to 1"),
        ({"values": [1], "ranking": [[9, 1]]}, 422, "layer 9"),
        ({"values": []}, 400, "needs at least 1"),
        ({}, 400, "is missing"),
    ],
)
def test_a_dose_that_cannot_be_is_refused(client, dose, status, reason):
    with pytest.raises(ServerError, match=reason) as refusal:
        client.evaluate(ROWS, OFF, dose=dose)
    assert refusal.value.status == status
    assert str(refusal.value.field).startswith("dose")


def test_too_many_jobs_are_429(client, address, library):
    gate = threading.Event()

    def hold(loaded):
        gate.wait(10)
        yield None

    address.engine.submit(hold, lambda message: None, client="other")
    jobs = [client.evaluate(ROWS, OFF) for _ in range(4)]
    with pytest.raises(ServerError, match="4 jobs") as refusal:
        client.evaluate(ROWS, OFF)
    assert (refusal.value.status, refusal.value.retry_after) == (429, 30)
    for job in jobs:
        job.cancel()
    gate.set()
    assert {job.wait(0.01)["state"] for job in jobs} == {"cancelled"}


def test_a_request_that_has_ended_steers_nothing_any_more():
    model = tiny_olmoe()
    ids = torch.tensor([[1, 20, 30, 40]])
    with torch.no_grad(), serve_in_background(lambda: Served.of(model, character_tokenizer())) as address:
        plain = tiny_olmoe()(ids).logits
        address.engine.wait_ready(30)
        client = connect(address.url, address.token)
        for _ in range(5):
            assert list(client.generate("a", steering=OFF, compare=True, max_new_tokens=3))
            assert torch.equal(model(ids).logits, plain)


def test_nothing_stays_on_the_model_when_the_server_has_gone():
    model = tiny_olmoe()
    with serve_in_background(lambda: Served.of(model, character_tokenizer())) as address:
        address.engine.wait_ready(30)
        assert list(connect(address.url, address.token).generate("a", steering=OFF, max_new_tokens=3))
    hooks = [h for m in model.modules() for h in (m._forward_hooks, m._forward_pre_hooks) if h]
    assert hooks == []
    assert not torch.is_inference(next(model.parameters()))

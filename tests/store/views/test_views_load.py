"""Views against brute force over the events of a small trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import combinations

import pytest

from moescope.store import StoreError, Trace, views
from moescope.store.errors import UnknownColumn


def events_of(trace: Trace, layer: int, special: bool = True) -> list[dict]:
    """Events with the language and the token of each."""
    languages = dict(zip(*(trace.prompts()[c].to_pylist() for c in ("prompt_id", "language")), strict=True))
    tokens = {(t["prompt_id"], t["position"]): t for t in trace.tokens().to_pylist()}
    rows = trace.events(layer=layer).to_pylist()
    for row in rows:
        row["language"] = languages[row["prompt_id"]]
        row |= {"token": tokens[row["prompt_id"], row["position"]]}
    return [row for row in rows if special or not row["token"]["special"]]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("by", [None, "language"])
def test_load(shared_trace: Trace, special: bool, by: str | None) -> None:
    table = shared_trace.view("load", by=by, special=special)
    for layer in range(3):
        events = events_of(shared_trace, layer, special)
        uses, weights, tokens = Counter(), Counter(), Counter()
        for event in events:
            name = event["language"] if by else None
            tokens[name] += 1
            for expert, weight in zip(event["experts"], event["weights"], strict=True):
                uses[name, expert] += 1
                weights[name, expert] += weight
        rows = [row for row in table.to_pylist() if row["layer"] == layer]
        assert len(rows) == 12 * len(tokens)
        shares, probabilities = Counter(), Counter()
        for row in rows:
            name = row["language"] if by else None
            assert row["tokens"] == tokens[name]
            assert row["count"] == uses[name, row["expert"]]
            assert row["share"] == pytest.approx(row["count"] / row["tokens"])
            assert row["weight_sum"] == pytest.approx(weights[name, row["expert"]], rel=1e-6)
            shares[name] += row["share"]
            probabilities[name] += row["mean_probability"]
        assert all(total == pytest.approx(3) for total in shares.values())
        assert all(total == pytest.approx(1) for total in probabilities.values())


def test_load_of_one_language_is_that_language_of_the_grouped_load(shared_trace: Trace) -> None:
    grouped = shared_trace.view("load", by="language").to_pylist()
    alone = shared_trace.view("load", where={"language": "fr"}).to_pylist()
    assert [
        {k: v for k, v in row.items() if k != "language"} for row in grouped if row["language"] == "fr"
    ] == alone


def test_expert_tokens(shared_trace: Trace) -> None:
    events = events_of(shared_trace, 1, special=False)
    uses = Counter(e["token"]["token_id"] for e in events if 4 in e["experts"])
    occurrences = Counter(e["token"]["token_id"] for e in events)
    table = shared_trace.view("expert-tokens", layer=1, expert=4, special=False, limit=0)
    assert {r["token_id"]: (r["count"], r["occurrences"]) for r in table.to_pylist()} == {
        token: (count, occurrences[token]) for token, count in uses.items()
    }
    assert table["count"].to_pylist() == sorted(uses.values(), reverse=True)
    assert table["token"].to_pylist() == [f" t{token}" for token in table["token_id"].to_pylist()]
    often = shared_trace.view("expert-tokens", layer=1, expert=4, order="share", least=5, limit=3)
    assert min(often["occurrences"].to_pylist()) >= 5


@pytest.mark.parametrize("limit", [1, 7, 40])
def test_expert_contexts_are_the_highest_weights(shared_trace: Trace, limit: int) -> None:
    events = [e for e in events_of(shared_trace, 2) if 7 in e["experts"]]
    best = sorted((e["weights"][e["experts"].index(7)] for e in events), reverse=True)[:limit]
    found = shared_trace.view("expert-contexts", layer=2, expert=7, limit=limit, context=2).to_pylist()
    assert [row["weight"] for row in found] == best
    for row in found:
        tokens = [t["token"] for t in shared_trace.tokens(row["prompt_id"]).to_pylist()]
        at = row["position"]
        assert (row["before"], row["token"], row["after"]) == (
            "".join(tokens[max(0, at - 2) : at]),
            tokens[at],
            "".join(tokens[at + 1 : at + 3]),
        )
        [event] = [e for e in events if (e["prompt_id"], e["position"]) == (row["prompt_id"], at)]
        assert event["experts"].index(7) == row["slot"]


def test_expert_contexts_of_one_each_and_of_one_language(shared_trace: Trace) -> None:
    found = shared_trace.view(
        "expert-contexts", layer=0, expert=1, per_prompt=1, where={"language": "de"}
    ).to_pylist()
    ids = [row["prompt_id"] for row in found]
    assert len(set(ids)) == len(ids)
    assert {row["language"] for row in found} == {"de"}


def test_token_contexts_are_places_of_the_token(shared_trace: Trace) -> None:
    tokens = [shared_trace.tokens(prompt) for prompt in shared_trace.prompts()["prompt_id"].to_pylist()]
    texts = ["".join(table["token"].to_pylist()) for table in tokens]
    there = Counter(token for table in tokens for token in table["token_id"].to_pylist())
    every = shared_trace.view("token-contexts", token_ids="1,7", context=3, limit=0).to_pylist()
    assert Counter(row["token_id"] for row in every) == {1: there[1], 7: there[7]}
    for row in every:
        assert any(row["before"] + row["token"] + row["after"] in text for text in texts)
    few = shared_trace.view("token-contexts", token_ids=[1], context=3, limit=2).to_pylist()
    assert len(few) == 2
    assert all(row in every for row in few)


def test_co_activation(shared_trace: Trace) -> None:
    events = events_of(shared_trace, 0)
    pairs = Counter(pair for e in events for pair in combinations(sorted(e["experts"]), 2))
    uses = Counter(expert for e in events for expert in e["experts"])
    for row in shared_trace.view("co-activation", layer=0).to_pylist():
        a, b = row["expert_a"], row["expert_b"]
        assert row["tokens"] == pairs[a, b]
        expected = pairs[a, b] * len(events) / (uses[a] * uses[b]) if uses[a] * uses[b] else 0
        assert row["lift"] == pytest.approx(expected)


def test_transitions(shared_trace: Trace) -> None:
    here, there = (
        {(e["prompt_id"], e["position"]): e["experts"] for e in events_of(shared_trace, n)} for n in (0, 1)
    )
    pairs = Counter((a, b) for key in here for a in here[key] for b in there[key])
    table = shared_trace.view("transitions", layer=0)
    assert {(r["from_expert"], r["to_expert"]): r["pairs"] for r in table.to_pylist() if r["pairs"]} == pairs
    assert set(table["to_layer"].to_pylist()) == {1}
    with pytest.raises(StoreError, match="is the last"):
        shared_trace.view("transitions", layer=2)


def test_prompt_tokens(shared_trace: Trace) -> None:
    table = shared_trace.view("prompt-tokens", prompt_id="p000005")
    events = [e for layer in range(3) for e in events_of(shared_trace, layer) if e["prompt_id"] == "p000005"]
    assert [(r["layer"], r["position"], r["experts"], r["token"]) for r in table.to_pylist()] == [
        (e["layer"], e["position"], e["experts"], e["token"]["token"]) for e in events
    ]


def test_every_view_is_documented_and_takes_keywords(shared_trace: Trace) -> None:
    for name in views.names():
        function = views.get(name)
        assert function.__doc__, name
        assert all(p.kind is p.KEYWORD_ONLY for p in views.parameters(name).values()), name


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: t.view("nothing"), "there is no view 'nothing'; there are: .*load"),
        (lambda t: t.view("load", nothing=1), "view load has no parameter 'nothing'"),
        (lambda t: t.view("expert-tokens", layer=0), "needs expert"),
        (lambda t: t.view("expert-tokens", layer=0, expert=12), "experts 0 to 11"),
        (lambda t: t.view("expert-tokens", layer=9, expert=1), "no router at layer 9"),
        (lambda t: t.view("load", by="nothing"), "no column or tag 'nothing'"),
        (lambda t: t.view("load", where={"nothing": ["x"]}), "no column or tag 'nothing'"),
        (lambda t: t.view("load", stream="vision"), "no router at stream 'vision'"),
        (lambda t: t.view("load", phase="later"), "phase is 'later'"),
        (lambda t: t.events(columns=["nothing"]), "events have no column 'nothing'"),
        (lambda t: t.events("nobody"), "no prompt 'nobody'"),
        (lambda t: next(t.iter_router(0, columns=("logits",))), "did not capture logits"),
    ],
)
def test_what_is_not_there_is_said(shared_trace: Trace, call: Callable[[Trace], object], said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        call(shared_trace)
    assert isinstance(caught.value, UnknownColumn | StoreError)

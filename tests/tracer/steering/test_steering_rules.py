"""Each rule against a plain loop over rows and experts, and against worked examples."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.store.schema import RouterSpec
from moescope.tracer.steering.at_logits import LogitState
from moescope.tracer.steering.at_selection import apply_selection
from moescope.tracer.steering.check import problems_with
from moescope.tracer.steering.read import read_rules
from moescope.tracer.steering.rechoose import rechosen

logit = st.floats(-8, 8, width=32).map(lambda z: round(z, 2))


@st.composite
def logits_and_experts(draw):
    width = draw(st.integers(3, 8))
    rows = draw(st.lists(st.lists(logit, min_size=width, max_size=width), min_size=1, max_size=4))
    return rows, sorted(draw(st.sets(st.integers(0, width - 1), min_size=1, max_size=width - 1)))


def rule(**fields):
    (only,) = read_rules([fields])
    return only


def after(rows, *rules, layer=0):
    state = LogitState(torch.tensor(rows))
    for one in rules:
        state.apply(one, layer)
    return state


def plain(rows, name, experts, amount: float, *, absolute=False):
    """MEASURES.md, section 4, one row and one expert at a time."""
    out = []
    for z in rows:
        mean = sum(z) / len(z)
        std = math.sqrt(sum((x - mean) ** 2 for x in z) / len(z))
        new = list(z)
        for e in range(len(z)):
            inside = e in experts
            if (name == "off" and inside) or (name == "keep_only" and not inside):
                new[e] = -math.inf
            elif name == "on" and inside:
                new[e] = max(z) + amount
            elif name == "low" and inside:
                new[e] = min(z)
            elif name == "bias" and inside:
                new[e] = z[e] + (amount if absolute else amount * std)
            elif name == "temperature":
                new[e] = z[e] / amount
        out.append(new)
    return out


@settings(max_examples=60, deadline=None)
@given(
    logits_and_experts(),
    st.sampled_from(["off", "keep_only", "on", "low", "bias", "temperature"]),
    st.sampled_from([0.5, 2.0]),
    st.booleans(),
)
def test_logit_rules_equal_their_definition(case, name, amount, absolute):
    rows, experts = case
    fields = {"rule": name}
    fields |= {"experts": experts} if name != "temperature" else {}
    fields |= {"amount": amount} if name in ("on", "bias", "temperature") else {}
    fields |= {"absolute": absolute} if name == "bias" else {}
    expected = torch.tensor(plain(rows, name, experts, amount, absolute=absolute))
    torch.testing.assert_close(after(rows, rule(**fields)).logits_TE, expected, rtol=1e-5, atol=1e-5)


def test_untouched_logits_keep_their_bits():
    rows = torch.randn(5, 6).bfloat16()
    state = LogitState(rows)
    state.apply(rule(rule="bias", experts=[2], amount=0.7), 0)
    others = [0, 1, 3, 4, 5]
    assert torch.equal(state.logits_TE[:, others], rows[:, others])
    assert state.logits_TE.dtype == torch.bfloat16


def test_rules_act_in_their_order():
    off, on = rule(rule="off", experts=[1]), rule(rule="on", experts=[1], margin=2.0)
    z = [[0.0, 5.0, 3.0]]
    assert after(z, on, off).logits_TE.tolist() == [[0.0, -math.inf, 3.0]]
    back = after(z, off, on)
    assert back.logits_TE.tolist() == [[0.0, 5.0, 3.0]]
    assert back.masked is not None
    assert back.forced is not None
    assert not back.masked.any()
    assert back.forced.tolist() == [[False, True, False]]


def test_an_expert_that_is_put_low_is_no_longer_forced():
    state = after([[0.0, 5.0, 3.0]], rule(rule="on", experts=[0, 2]), rule(rule="low", experts=[2]))
    assert state.logits_TE.tolist() == [[6.0, 5.0, 5.0]]
    assert state.forced is not None
    assert state.forced.tolist() == [[True, False, False]]


def test_spread_and_extremes_leave_masked_experts_out():
    z = [[0.0, 1.0, 2.0, 9.0]]
    off = rule(rule="off", experts=[3])
    biased = after(z, off, rule(rule="bias", experts=[0], amount=1.0))
    assert biased.logits_TE[0, 0].item() == pytest.approx(math.sqrt(2 / 3))
    assert after(z, off, rule(rule="on", experts=[0], margin=1.0)).logits_TE[0, 0] == 3.0
    assert after(z, rule(rule="off", experts=[0]), rule(rule="low", experts=[3])).logits_TE[0, 3] == 1.0


def test_rows_outside_the_span_keep_everything():
    z = torch.randn(4, 5)
    state = LogitState(z)
    rows_T = torch.tensor([True, False, False, True])
    state.apply(rule(rule="off", experts=[0, 2]), 0, rows_T)
    assert torch.equal(state.logits_TE[1:3], z[1:3])
    assert state.masked is not None
    assert state.masked.sum(-1).tolist() == [2, 0, 0, 2]


def test_vector_is_added_where_it_is_given():
    vectors = rule(rule="vector", delta={"1": [0.5, -0.5], "2": [1, 1]})
    assert after([[1.0, 2.0]], vectors, layer=1).logits_TE.tolist() == [[1.5, 1.5]]
    assert after([[1.0, 2.0]], vectors, layer=2).logits_TE.tolist() == [[2.0, 3.0]]


def select(fields, ids, weights, num_experts=10):
    new_ids, new = apply_selection(rule(**fields), 0, torch.tensor(ids), torch.tensor(weights), num_experts)
    return new_ids.tolist(), [[round(x, 6) for x in row] for row in new.tolist()]


def test_selection_rules_worked_by_hand():
    ids, weights = [[4, 7, 2]], [[0.5, 0.3, 0.2]]
    cases = [
        ({"rule": "zero", "experts": [7]}, [4, 7, 2], [0.5, 0.0, 0.2]),
        ({"rule": "zero", "experts": [7], "renormalise": True}, [4, 7, 2], [0.714286, 0.0, 0.285714]),
        ({"rule": "scale", "experts": [4, 9], "beta": 2.0}, [4, 7, 2], [1.0, 0.3, 0.2]),
        ({"rule": "scale", "experts": "all", "beta": 0.5}, [4, 7, 2], [0.25, 0.15, 0.1]),
        ({"rule": "top_k", "m": 2, "renormalise": False}, [4, 7, -1], [0.5, 0.3, 0.0]),
        ({"rule": "top_k", "m": 2}, [4, 7, -1], [0.625, 0.375, 0.0]),
        ({"rule": "top_p", "q": 0.5}, [4, -1, -1], [1.0, 0.0, 0.0]),
        ({"rule": "top_p", "q": 0.51, "renormalise": False}, [4, 7, -1], [0.5, 0.3, 0.0]),
        ({"rule": "top_p", "q": 1e-6}, [4, -1, -1], [1.0, 0.0, 0.0]),
        ({"rule": "top_p", "q": 0}, [4, -1, -1], [1.0, 0.0, 0.0]),
        ({"rule": "prune_ratio", "mu": 0.5}, [4, 7, -1], [0.625, 0.375, 0.0]),
        ({"rule": "prune_ratio", "mu": {"0": 0.61}}, [4, -1, -1], [1.0, 0.0, 0.0]),
    ]
    for fields, wanted_ids, wanted in cases:
        assert select(fields, ids, weights) == ([wanted_ids], [wanted]), fields


def test_selection_rules_go_by_weight_and_not_by_slot():
    ids, weights = [[2, 4, 7]], [[0.2, 0.5, 0.3]]
    assert select({"rule": "top_k", "m": 1}, ids, weights) == ([[-1, 4, -1]], [[0.0, 1.0, 0.0]])
    assert select({"rule": "top_p", "q": 0.6}, ids, weights) == ([[-1, 4, 7]], [[0.0, 0.625, 0.375]])


def test_empty_slots_stay_empty():
    ids, weights = [[3, -1, 5]], [[0.4, 0.0, 0.6]]
    assert select({"rule": "top_k", "m": 3}, ids, weights) == (ids, weights)
    assert select({"rule": "scale", "experts": "all", "beta": 2.0}, ids, weights)[0] == ids


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), min_size=1, max_size=4),
    st.sampled_from(["top_k", "top_p", "prune_ratio"]),
    st.sampled_from([1, 0.3, 0.8]),
)
def test_dropping_keeps_the_first_and_the_sum(weights, name, amount):
    amount = 2 if name == "top_k" else amount
    before = torch.tensor(weights)
    ids = torch.arange(4).expand_as(before)
    new_ids, after_TK = apply_selection(rule(rule=name, amount=amount), 0, ids, before, 4)
    best = before.argmax(-1, keepdim=True)
    assert (new_ids.gather(-1, best) >= 0).all()
    assert ((new_ids < 0) == (after_TK == 0)).all()
    torch.testing.assert_close(after_TK.sum(-1), before.sum(-1))


def null_reference(z, places, count, c):
    """All experts and null experts in one list, sorted; true ones first where they tie."""
    entries = sorted([(-x, 0, e) for e, x in enumerate(z)] + [(-c, 1, None)] * count, key=lambda t: t[:2])
    return sorted(e for _, null, e in entries[:places] if not null)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(logit, min_size=6, max_size=6, unique=True),
    st.integers(2, 6),
    st.integers(0, 5),
    logit,
    st.booleans(),
)
def test_null_experts_take_places_and_leave_weights_in_proportion(z, places, count, c, normalises):
    logits = torch.tensor([z])
    weights, ids = logits.softmax(-1).topk(2, dim=-1)
    sums = weights.sum(-1)
    if normalises:
        weights, sums = weights / weights.sum(-1, keepdim=True), torch.ones(1)
    nulls = rule(rule="null_experts", m=count, c=c, k=places)
    got_ids, got = rechosen(nulls, ids, weights, logits, "softmax", normalises=normalises)
    kept = [e for e in got_ids[0].tolist() if e >= 0]
    assert sorted(kept) == null_reference(z, places, count, c)
    p = logits.softmax(-1)[0]
    total = float(p[kept].sum())
    for expert, weight in zip(got_ids[0].tolist(), got[0].tolist(), strict=True):
        share = 0.0 if expert < 0 else float(p[expert]) * (float(sums[0]) / total if normalises else 1.0)
        assert weight == pytest.approx(share, rel=1e-4, abs=1e-6)


def test_a_threshold_runs_every_expert_whose_share_is_larger():
    z = torch.tensor([[1.0, 0.5, 0.0, -1.0]])
    counts = {}
    for tau in (2, 1, 0.5, 0.1, 0.05):
        evo = rule(rule="temperature", tau=tau, threshold=0.001)
        logits = after(z.tolist(), evo).logits_TE
        weights, ids = logits.softmax(-1).topk(2, dim=-1)
        got_ids, got = rechosen(evo, ids, weights, logits, "softmax", normalises=False)
        kept = [e for e in got_ids[0].tolist() if e >= 0]
        counts[tau] = len(kept)
        shares = [math.exp(x / tau) / sum(math.exp(y / tau) for y in z[0].tolist()) for x in z[0].tolist()]
        assert sorted(kept) == [e for e, share in enumerate(shares) if share > 0.001]
        assert got[0, : len(kept)].tolist() == pytest.approx([shares[e] for e in kept], rel=1e-5)
    assert counts == {2: 4, 1: 4, 0.5: 4, 0.1: 2, 0.05: 1}


def test_an_expert_that_is_put_low_takes_no_place_among_those_that_are_on():
    spec = RouterSpec(layer=0, num_experts=4, top_k=2, router="gate")
    on, low = {"rule": "on", "experts": [0, 1, 2]}, {"rule": "low", "experts": [2]}
    assert problems_with(read_rules([on]), [spec]) == [
        "3 experts are on in layer 0 (decoder), but a token uses 2"
    ]
    assert problems_with(read_rules([on, low]), [spec]) == []

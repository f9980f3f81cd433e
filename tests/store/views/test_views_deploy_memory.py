"""Caches, predictions, bits and calibration sets from a small trace, against loops over its events."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from events_by_hand import rows_of

from moescope.kernels.importance import calibration_sigma
from moescope.store import StoreError, Trace, open_trace
from moescope.store.deliver.recipes import ExpertBits, recipe
from moescope.store.errors import DecisionRefused
from moescope.store.expert_sheet import write_router_rows
from moescope.store.files.folder import open_folder
from moescope.store.notes import notes_of
from moescope.store.read.token_filter import ALL_TOKENS
from moescope.store.views.deploy.bits import allocate, bit_costs
from moescope.store.views.deploy.calibration import picked_prompts, prompt_lines
from moescope.store.views.deploy.halves import halves
from moescope.store.views.options import Routers

LAYERS = (0, 1, 2)


def _split(trace: Trace) -> tuple[set[str], set[str]]:
    parts = halves(trace, ALL_TOKENS, None, 0)
    ids = trace.prompts()["prompt_id"].to_pylist()
    return tuple({ids[i] for i in np.flatnonzero(mask)} for mask in (parts.fit_P, parts.report_P))  # pyright: ignore[reportReturnType]


def test_layer_frequency_hits_by_hand(shared_trace: Trace) -> None:
    fit, report = _split(shared_trace)
    hits = accesses = 0
    for layer in LAYERS:
        rows = rows_of(shared_trace, layer)
        uses = np.bincount(
            [e for row in rows if row["prompt_id"] in fit for e in row["experts"]], minlength=12
        )
        held = set(np.argsort(-uses, kind="stable")[:4].tolist())
        chosen = [e for row in rows if row["prompt_id"] in report for e in row["experts"]]
        hits, accesses = hits + sum(e in held for e in chosen), accesses + len(chosen)
    table = shared_trace.view("offload", slots="4,12", expert_bytes=100.0)
    found = {(row["policy"], row["slots"]): row for row in table.to_pylist()}
    row = found["layer_frequency", 4]
    assert (row["hits"], row["accesses"]) == (hits, accesses)
    assert row["hit_rate"] == pytest.approx(hits / accesses)
    assert row["bytes"] == 4 * 3 * 100
    assert found["layer_frequency", 12]["hit_rate"] == found["lru", 12]["hit_rate"] == 1
    assert found["belady", 4]["hit_rate"] >= max(found[p, 4]["hit_rate"] for p in ("lru", "lfu"))
    assert any("not times" in note for note in notes_of(table))


def test_the_last_token_as_a_prediction_by_hand(shared_trace: Trace) -> None:
    _, report = _split(shared_trace)
    hits = [0] * 3
    total = [0] * 3
    for layer in LAYERS:
        before = None
        for row in rows_of(shared_trace, layer):
            if row["prompt_id"] in report:
                key = (row["prompt_id"], row["position"] - 1, row["token"]["phase"])
                expected = before[1] if before is not None and before[0] == key else []
                hits[layer] += sum(e in expected for e in row["experts"])
                total[layer] += len(row["experts"])
            before = ((row["prompt_id"], row["position"], row["token"]["phase"]), row["experts"])
    table = shared_trace.view("expert-prediction").to_pylist()
    found = [row["recall"] for row in table if row["predictor"] == "same_as_previous_token"]
    assert found == pytest.approx([h / t for h, t in zip(hits, total, strict=True)])
    assert {row["chance"] for row in table} == {3 / 12}


def test_regrouping_is_never_worse_than_in_order(shared_trace: Trace) -> None:
    rows = {row["order"]: row for row in shared_trace.view("regrouping", batch=4).to_pylist()}
    assert rows["regrouped"]["experts_per_batch"] <= rows["as recorded"]["experts_per_batch"]
    assert rows["random"]["low"] <= rows["random"]["experts_per_batch"] <= rows["random"]["high"]


def test_picked_prompts_are_more_even_than_random_ones(shared_trace: Trace, tmp_path: Path) -> None:
    table = shared_trace.view("calibration-balance", sizes="8").to_pylist()
    picked, random, whole = table
    assert picked["sigma"] < random["low"]
    assert whole["prompts"] == shared_trace.num_prompts
    rows, sigma = picked_prompts(shared_trace, 8)
    by_hand = np.zeros((3, 12))
    ids = [shared_trace.prompts()["prompt_id"][i].as_py() for i in rows.tolist()]
    for layer in LAYERS:
        for row in rows_of(shared_trace, layer):
            if row["prompt_id"] in ids:
                np.add.at(by_hand[layer], row["experts"], 1)
    assert sigma[-1] == pytest.approx(calibration_sigma(by_hand)) == pytest.approx(picked["sigma"])
    lines = [json.loads(line) for line in prompt_lines(shared_trace, rows).splitlines()]
    assert [line["id"] for line in lines] == ids
    with pytest.raises(DecisionRefused, match="only 48 with tokens"):
        picked_prompts(shared_trace, 49)


@pytest.fixture(scope="module")
def weighed(shared_trace_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """A trace with an expert sheet of made-up errors."""
    path = Path(shutil.copytree(shared_trace_path, tmp_path_factory.mktemp("weighed") / "trace"))
    rng = np.random.default_rng(0)
    for router in LAYERS:
        rows = []
        for expert in range(12):
            errors = np.sort(rng.gamma(1, 1, 3))[::-1].tolist()
            rows.append(
                {
                    "layer": router,
                    "stream": "decoder",
                    "expert": expert,
                    "bits": [2, 3, 4],
                    "rtn_error": errors,
                }
            )
            rows[-1] |= {"outliers": [float(rng.random()), 0.5], "bytes": 1000, "block_change": 0.1 * router}
        write_router_rows(open_folder(path), router, rows, {})
    return open_trace(path)


def test_the_program_predicts_less_error_than_every_rule_where_it_was_fitted(weighed: Trace) -> None:
    rows = {row["method"]: row for row in weighed.view("bits", budgets="2.5").to_pylist()}
    assert set(rows) == {"mc-moe", "uniform", "usage", "outliers", "block", "random"}
    assert all(rows["mc-moe"]["fitted"] <= row["fitted"] + 1e-12 for row in rows.values())
    assert all(row["mean_bits"] <= 2.5 + 1e-9 for row in rows.values())
    assert rows["random"]["relative"] == 1
    # The error by hand: φ · w^1.5 · ε on the held-out half.
    costs = bit_costs(weighed, "2,3,4")
    bits = allocate(costs, "mc-moe", 2.5)
    at = [(2, 3, 4).index(width) for width in bits]
    assert rows["mc-moe"]["error"] == pytest.approx(sum(costs.report_NB[n, b] for n, b in enumerate(at)))


def test_costs_are_of_each_half(weighed: Trace) -> None:
    costs = bit_costs(weighed, "2,4", routers=Routers(layers="1"))
    fit, _ = _split(weighed)
    rows = [row for row in rows_of(weighed, 1) if row["prompt_id"] in fit]
    usage = np.bincount([e for row in rows for e in row["experts"]], minlength=12)
    np.testing.assert_allclose(costs.usage_N, usage / usage.sum())
    assert costs.widths == (2, 4)


def test_each_layer_keeps_its_budget_where_asked(weighed: Trace) -> None:
    costs = bit_costs(weighed, "2,3,4")
    bits = allocate(costs, "mc-moe", 3, "layer").reshape(3, 12)
    assert (bits.sum(1) <= 36).all()
    whole = allocate(costs, "mc-moe", 3, "model")
    assert costs.error(whole, costs.fit_NB) <= costs.error(bits.ravel(), costs.fit_NB) + 1e-12


def test_what_can_not_be_allocated_is_said_in_a_sentence(weighed: Trace, shared_trace: Trace) -> None:
    for trace, params, said in (
        (shared_trace, {}, "no expert sheet.*moescope weigh"),
        (weighed, {"levels": "1,2"}, "no rounding errors at 1,2 bits"),
        (weighed, {"budgets": "1.5"}, "can't be met.*from 2 to 4"),
        (weighed, {"levels": "two"}, "levels are 'two'"),
    ):
        with pytest.raises(StoreError, match=said):
            trace.view("bits", **params)


EXPERTS = [
    ExpertBits(0, 1, 2, "model.layers.0.mlp.experts"),
    ExpertBits(0, 11, 4, "model.layers.0.mlp.experts"),
    ExpertBits(10, 1, 3, "model.layers.10.mlp.experts"),
]
MODULES = {
    "model.layers.0.mlp.experts.1.up_proj": 2,
    "model.layers.0.mlp.experts.11.up_proj": 4,
    "model.layers.10.mlp.experts.1.down_proj": 3,
}


def test_gptqmodel_rules_match_their_expert_and_no_other() -> None:
    data = json.loads(recipe("gptqmodel", EXPERTS, group=64, rest=4))
    assert (data["bits"], data["group_size"]) == (4, 64)
    for module, bits in MODULES.items():
        matched = [rule["bits"] for pattern, rule in data["dynamic"].items() if re.match(pattern, module)]
        assert matched == ([] if bits == 4 else [bits])
    assert not any(re.match(pattern, "model.layers.0.self_attn.q_proj") for pattern in data["dynamic"])


def test_llm_compressor_groups_match_their_expert_and_no_other() -> None:
    data = json.loads(recipe("llm-compressor", EXPERTS, group=64))
    groups = data["experts_stage"]["quantization_modifiers"]["GPTQModifier"]["config_groups"]
    for module, bits in MODULES.items():
        matched = [
            group["weights"]["num_bits"] for group in groups.values()
            if any(re.match(target.removeprefix("re:"), module) for target in group["targets"])
        ]  # fmt: skip
        assert matched == [bits]


def test_recipes_refuse_what_the_tool_does_not_take() -> None:
    with pytest.raises(DecisionRefused, match="gptqmodel does not take 1 bits"):
        recipe("gptqmodel", [ExpertBits(0, 0, 1, "experts")])
    with pytest.raises(DecisionRefused, match="does not name the experts' modules of layer 0"):
        recipe("llm-compressor", [ExpertBits(0, 0, 2, None)])
    assert json.loads(recipe("json", [ExpertBits(0, 0, 1, None)]))["experts"][0]["bits"] == 1


def test_the_model_card_by_hand() -> None:
    from moescope.store import RouterSpec
    from moescope.store.views.deploy.model_card import card_of

    routers = [RouterSpec(layer=n, num_experts=64, top_k=8, router="r") for n in range(16)]
    expert = 3 * 2048 * 1024
    model = {"name": "m", "parameters": 7_000_000_000, "hidden_size": 2048}
    model["active_parameters"] = 7_000_000_000 - 16 * 56 * expert
    row = card_of(model, routers, 5e12)
    assert row["sparsity"] == 0.875
    assert row["granularity"] == pytest.approx(4)
    assert row["tokens_per_parameter"] == pytest.approx(5e12 / 7e9)
    assert row["compute"] == 6 * model["active_parameters"] * 5e12
    assert row["inside_fit"] is False
    at_paper = card_of(model, routers)
    assert at_paper["leverage"] == pytest.approx(3.31, abs=6e-3)
    unknown = card_of({"name": "m"}, routers)
    assert unknown["sparsity"] == 0.875
    assert unknown["leverage"] is None
    assert card_of({}, [RouterSpec(layer=0, num_experts=4, top_k=None, router="r")])["sparsity"] is None

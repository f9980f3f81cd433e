# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportCallIssue=false, reportIndexIssue=false
"""The expert sheet against what the model's own experts do, written out by hand."""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import character_tokenizer, family, tiny_olmoe

from moescope.kernels.bits import round_to_nearest
from moescope.kernels.importance import block_importance, easy_ep_score, outlier_score, reap_score
from moescope.kernels.likeness import output_similarity
from moescope.store import Trace, open_trace
from moescope.store.expert_sheet import expert_sheet
from moescope.tracer import PromptSet, load_model, trace_prompts
from moescope.tracer.errors import TracerError
from moescope.tracer.weigh import weigh
from moescope.tracer.weigh.matrices import rounded
from moescope.tracer.weigh.rows import rows_of

ROWS = [
    {"id": f"p{n}", "text": text}
    for n, text in enumerate(["All human beings", "are born", "free and equal in dignity"])
]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny_olmoe()


@pytest.fixture(scope="module")
def weighed(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    path = tmp_path_factory.mktemp("weigh") / "trace"
    captures = ("ids", "weights", "output_norm", "similarity")
    trace_prompts(
        model, character_tokenizer(), PromptSet.from_rows(ROWS), path, capture=captures, weight_type="float32"
    )
    trace = open_trace(path)
    before = copy.deepcopy(model.state_dict())
    assert weigh(model, trace, bits=(2, 4), tokens=10_000, probe=9, group=8) == 3
    # Rounding leaves no trace in the model.
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return trace


def _sheet(trace: Trace, layer: int) -> list[dict]:
    table = expert_sheet(trace)
    assert table is not None
    return [row for row in table.to_pylist() if row["layer"] == layer]


def test_scores_equal_those_of_the_recorded_events(weighed: Trace) -> None:
    for layer in range(3):
        events = weighed.events(layer=layer)
        ids, gates, norms = (np.array(events[n].to_pylist()) for n in ("experts", "weights", "output_norm"))
        rows = _sheet(weighed, layer)
        np.testing.assert_allclose([r["reap"] for r in rows], reap_score(ids, gates, norms, 8), rtol=1e-4)
        change = 1 - np.array(events["similarity"].to_pylist())
        expected = easy_ep_score(ids, gates, norms, change, 8)
        np.testing.assert_allclose([r["easy_ep"] for r in rows], expected, rtol=1e-3, atol=1e-5)
        assert [r["tokens"] for r in rows] == np.bincount(ids.ravel(), minlength=8).tolist()


def test_weights_of_an_expert(model: torch.nn.Module, weighed: Trace) -> None:
    layer = model.model.layers[1].mlp
    row = _sheet(weighed, 1)[5]
    up, down = layer.experts.gate_up_proj[5].detach().numpy(), layer.experts.down_proj[5].detach().numpy()
    assert row["matrices"] == ["gate_up_proj", "down_proj"]
    assert row["parameters"] == up.size + down.size
    assert row["bytes"] == 4 * row["parameters"]
    np.testing.assert_allclose(row["norms"], [np.linalg.norm(up), np.linalg.norm(down)], rtol=1e-5)
    np.testing.assert_allclose(row["outliers"], [outlier_score(up), outlier_score(down)], rtol=1e-6)
    assert row["router_norm"] == pytest.approx(float(layer.gate.weight[5].detach().norm()), rel=1e-5)
    assert row["energy"][-1] == pytest.approx(1)


def _inputs(model: torch.nn.Module, trace: Trace, layer: int, prompt: str) -> torch.Tensor:
    """(T, H) what a layer's experts get for a recorded prompt."""
    seen = []
    handle = model.model.layers[layer].mlp.experts.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    with torch.no_grad():
        model(torch.tensor([trace.tokens(prompt)["token_id"].to_pylist()]))
    handle.remove()
    return seen[0].reshape(-1, seen[0].shape[-1])


def _expert(up: torch.Tensor, down: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    gate, value = (x @ up.T).chunk(2, -1)
    return (torch.nn.functional.silu(gate) * value) @ down.T


def test_rounding_errors_by_hand(model: torch.nn.Module, weighed: Trace) -> None:
    experts = model.model.layers[2].mlp.experts
    events = weighed.events(layer=2).to_pylist()
    inputs = {row["id"]: _inputs(model, weighed, 2, row["id"]) for row in ROWS}
    for expert, row in enumerate(_sheet(weighed, 2)):
        mine = [e for e in events if expert in e["experts"]]
        if not mine:
            assert row["rtn_error"] == [0, 0]
            continue
        x = torch.stack([inputs[e["prompt_id"]][e["position"]] for e in mine])
        up, down = experts.gate_up_proj[expert].detach(), experts.down_proj[expert].detach()
        for width, error in zip((2, 4), row["rtn_error"], strict=True):
            new = [torch.from_numpy(round_to_nearest(one, width, 8)) for one in (up, down)]
            off = (_expert(*new, x) - _expert(up, down, x)).pow(2).sum(-1).mean().sqrt()
            assert error == pytest.approx(float(off), rel=1e-3)


def test_similarity_by_hand(model: torch.nn.Module, weighed: Trace) -> None:
    found = np.array([row["output_similarity"] for row in _sheet(weighed, 0)])
    assert found.shape == (8, 8)
    np.testing.assert_allclose(np.diag(found), 1, rtol=1e-4)
    np.testing.assert_allclose(found, found.T, atol=1e-6)
    experts = model.model.layers[0].mlp.experts
    # The probe takes the first tokens of the prompts in the order of the draw.
    order = np.random.default_rng(0).permutation(3)
    x = torch.cat([_inputs(model, weighed, 0, ROWS[at]["id"]) for at in order])[:9]
    outputs = [
        _expert(experts.gate_up_proj[e].detach(), experts.down_proj[e].detach(), x).numpy() for e in range(8)
    ]
    np.testing.assert_allclose(found, output_similarity(np.stack(outputs)), atol=1e-4)


def test_shares_of_activations_and_the_change_of_a_layer_by_hand(
    model: torch.nn.Module, weighed: Trace
) -> None:
    layer, seen = model.model.layers[1], {"before": [], "after": []}

    def keep(module: torch.nn.Module, args: tuple, out: object) -> None:
        seen["before"].append(args[0])
        seen["after"].append(out[0] if isinstance(out, tuple) else out)

    hook = layer.register_forward_hook(keep)
    inputs = torch.cat([_inputs(model, weighed, 1, row["id"]) for row in ROWS])
    hook.remove()
    before, after = (torch.cat([x.reshape(-1, x.shape[-1]) for x in seen[n]]) for n in ("before", "after"))
    rows = _sheet(weighed, 1)
    change = block_importance(before.detach().numpy(), after.detach().numpy())
    assert [row["block_change"] for row in rows] == pytest.approx([change] * 8, rel=1e-3)
    ids = np.array(weighed.events(layer=1)["experts"].to_pylist())
    positions = [e["prompt_id"] for e in weighed.events(layer=1).to_pylist()]
    order = np.concatenate([np.flatnonzero(np.array(positions) == row["id"]) for row in ROWS])
    for expert, row in enumerate(rows):
        x = inputs[(ids[order] == expert).any(1)]
        if not len(x):
            assert row["active_share"] is None
            continue
        gate, value = (x @ layer.mlp.experts.gate_up_proj[expert].T).chunk(2, -1)
        inner = torch.nn.functional.silu(gate) * value
        assert row["active_share"] == pytest.approx(float((inner.abs() > 1e-3).float().mean()), abs=2e-3)


def test_a_model_that_stays_on_disk_gives_the_same_sheet_a_layer_at_a_time(
    model: torch.nn.Module, weighed: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save_pretrained(tmp_path / "m")
    character_tokenizer().save_pretrained(tmp_path / "m")
    loaded = load_model(tmp_path / "m", device="disk").model
    layers, present = loaded.model.layers, []

    def counted(*args: Any) -> list[dict]:
        present.append(sum(any(p.device.type != "meta" for p in one.parameters()) for one in layers))
        return rows_of(*args)

    assert all(p.device.type == "meta" for p in layers.parameters())
    monkeypatch.setattr(sys.modules[weigh.__module__], "rows_of", counted)
    shutil.copytree(weighed.url, tmp_path / "t", ignore=shutil.ignore_patterns("experts"))
    trace = open_trace(tmp_path / "t")
    done: list[int] = []
    assert weigh(loaded, trace, bits=(2, 4), tokens=10_000, probe=9, group=8,
                 progress=lambda at, of: done.append(at)) == 3  # fmt: skip
    assert (set(present), done) == ({1}, [1, 2, 3])
    for own, other in zip(expert_sheet(trace).to_pylist(), expert_sheet(weighed).to_pylist(), strict=True):
        for name, value in own.items():
            if isinstance(value, float) or (isinstance(value, list) and isinstance(value[0], float)):
                np.testing.assert_allclose(value, other[name], rtol=1e-3, atol=1e-5, err_msg=name)
            else:
                assert value == other[name], name
    assert weigh(loaded, trace, what=("norms",)) == 3


def test_a_sheet_is_not_made_twice_and_other_settings_make_it_anew(
    model: torch.nn.Module, weighed: Trace
) -> None:
    assert weigh(model, weighed, bits=(2, 4), tokens=10_000, probe=9, group=8) == 0


def test_another_model_is_refused(weighed: Trace) -> None:
    with pytest.raises(TracerError, match="whose weights differ"):
        weigh(tiny_olmoe(seed=1), weighed)
    with pytest.raises(TracerError, match="cannot weigh 'luck'"):
        weigh(tiny_olmoe(), weighed, what=("luck",))


def test_rounding_in_torch_equals_the_kernel() -> None:
    weight = torch.randn(5, 20)
    for bits in (1, 3, 8):
        np.testing.assert_allclose(
            rounded(weight, bits, 8).numpy(), round_to_nearest(weight, bits, 8), atol=1e-5
        )
    assert torch.equal(rounded(torch.full((2, 4), 3.0), 2, 4), torch.full((2, 4), 3.0))


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "gpt_oss", "nemotron_h"])
def test_other_families_are_weighed_too(name: str, tmp_path: Path) -> None:
    other = family(name)
    trace_prompts(other, character_tokenizer(), PromptSet.from_rows(ROWS), tmp_path / "t")
    trace = open_trace(tmp_path / "t")
    weigh(other, trace, what=("norms", "outputs", "quantisation"), bits=(2, 8), group=8)
    rows = [row for row in (expert_sheet(trace) or []).to_pylist() if row["tokens"]]  # pyright: ignore[reportAttributeAccessIssue]
    assert rows
    assert all(0 < row["rtn_error"][1] < row["rtn_error"][0] for row in rows)
    assert all(row["reap"] > 0 for row in rows)
    # Its experts' output passes a projection before it is added: how far a token moves can't be told.
    assert all((row["easy_ep"] is None) == (name == "nemotron_h") for row in rows)


def test_the_views_of_weights_and_likeness_say_what_the_model_holds(
    model: torch.nn.Module, weighed: Trace
) -> None:
    layer, expert = model.model.layers[1].mlp, 5
    row_EH = layer.gate.weight.detach().double().numpy()
    norm_E = np.linalg.norm(row_EH, axis=1)
    found = weighed.view("expert-weights", layer=1, expert=expert).to_pylist()
    assert [row["matrix"] for row in found] == ["router row", "gate_up_proj", "down_proj"]
    down_E = np.linalg.norm(layer.experts.down_proj.detach().double().numpy(), axis=(1, 2))
    for row, norms in ((found[0], norm_E), (found[2], down_E)):
        assert row["norm"] == pytest.approx(norms[expert], rel=1e-5)
        assert row["layer_mean"] == pytest.approx(norms.mean(), rel=1e-5)
        assert row["rank"] == 1 + sorted(norms.tolist(), reverse=True).index(norms[expert])
    cosine_EE = row_EH @ row_EH.T / np.outer(norm_E, norm_E)
    alike = weighed.view("expert-likeness", layer=1, expert=expert, limit=0).to_pylist()
    expected = sorted(set(range(8)) - {expert}, key=lambda e: -cosine_EE[expert, e])
    assert [row["expert"] for row in alike] == expected
    assert [row["router_cosine"] for row in alike] == pytest.approx(cosine_EE[expert, expected], abs=1e-5)
    pairs = [cosine_EE[a, b] for a in range(8) for b in range(a)]
    assert alike[0]["router_mean"] == pytest.approx(np.mean(pairs), abs=1e-5)
    assert alike[0]["router_high"] == pytest.approx(np.quantile(pairs, 0.95), abs=1e-5)
    by_output = weighed.view("expert-likeness", layer=1, expert=expert, by="outputs").to_pylist()
    assert by_output[0]["output_similarity"] == max(row["output_similarity"] for row in by_output)
    assert {row["expert"] for row in by_output} == {row["expert"] for row in alike}

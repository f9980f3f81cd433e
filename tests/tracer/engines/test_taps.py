"""Taps, steering and the spool of a worker, without vLLM: against routers and steps made by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from moescope.store.schema import RouterSpec
from moescope.tracer.engines.vllm.checks import KernelCheck, contradictions, refused, weights_problem
from moescope.tracer.engines.vllm.rotation import rotation_problems
from moescope.tracer.engines.vllm.rows import read_files
from moescope.tracer.engines.vllm.spool import Order, Spool, StepRows, put_problem
from moescope.tracer.engines.vllm.steer import StepRequest, StepSteering, unsteerable
from moescope.tracer.engines.vllm.step_watch import Step, watch
from moescope.tracer.engines.vllm.taps import UNSEEN, RouterTap, TapBuffers
from moescope.tracer.errors import CaptureError
from moescope.tracer.steering.read import read_rules

EXPERTS, K, ROWS = 6, 2, 8
SPEC = RouterSpec(layer=3, num_experts=EXPERTS, top_k=K, router="layers.3", scoring="softmax")


class Router:
    """Softmax, the K largest, made to sum to 1."""

    renormalize, top_k, global_num_experts, scoring_func = True, K, EXPERTS, "softmax"

    def _compute_routing(
        self, hidden: Any, logits: torch.Tensor, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        weights, ids = logits.softmax(-1).topk(K)
        return weights / weights.sum(-1, keepdim=True), ids.to(torch.int32)


class Experts:
    def forward_modular(self, *, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> torch.Tensor:
        return topk_weights


def tapped(own_rows: Any = None) -> tuple[TapBuffers, Router, Experts]:
    buffers, router, experts = TapBuffers([SPEC], ROWS, "cpu"), Router(), Experts()
    tap = RouterTap(buffers, 0) if own_rows is None else RouterTap(buffers, 0, own_rows)
    tap.stand_on(router, experts)
    return buffers, router, experts


def step(buffers: TapBuffers, router: Router, experts: Experts, logits: torch.Tensor) -> torch.Tensor:
    buffers.begin_step()
    weights, ids = router._compute_routing(None, logits, None)
    return experts.forward_modular(topk_ids=ids, topk_weights=weights)


def logits_of(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, EXPERTS, generator=torch.Generator().manual_seed(seed))


def test_a_tap_copies_the_decision_into_the_same_memory() -> None:
    buffers, router, experts = tapped()
    place = buffers.ids_LNK.data_ptr()
    for seed, rows in ((0, 5), (1, 3)):
        logits = logits_of(rows, seed)
        step(buffers, router, experts, logits)
        weights, ids = Router()._compute_routing(None, logits)
        assert torch.equal(buffers.ids_LNK[0, :rows], ids)
        assert torch.equal(buffers.weights_LNK[0, :rows], weights)
        assert torch.equal(buffers.logits_LNE[0, :rows], logits)
        assert not buffers.unseen_layers(rows)
        assert (buffers.ids_LNK[0, rows:] == UNSEEN).all()
    assert buffers.ids_LNK.data_ptr() == place


def test_a_step_past_the_tap_is_noticed() -> None:
    buffers, _, _ = tapped()
    check = KernelCheck(buffers, [Router()])
    check.begin_step()
    buffers.begin_step()
    assert "were not recorded" in str(check.problem(2))


def test_only_own_rows_are_kept_where_all_ranks_are_routed_together() -> None:
    buffers, router, experts = tapped(lambda count: slice(3, 5))
    logits = logits_of(7)
    step(buffers, router, experts, logits)
    assert torch.equal(buffers.logits_LNE[0, :2], logits[3:5])
    assert (buffers.ids_LNK[0, 2:] == UNSEEN).all()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda b: b.kernel_ids_LNK[0, 1, 0].add_(1), "other ids"),
        (lambda b: b.kernel_weights_LNK[0, 1, 0].mul_(0.5), "other gate weights"),
        (lambda b: b.logits_LNE[0, 1].neg_(), "not follow from its logits"),
        (lambda b: None, None),
    ],
)
def test_what_the_experts_received_is_compared(spoil: Any, words: str | None) -> None:
    buffers, router, experts = tapped()
    check = KernelCheck(buffers, [router])
    check.begin_step()
    step(buffers, router, experts, logits_of(4))
    spoil(buffers)
    found = check.problem(4)
    assert (found is None) if words is None else words in str(found)


def test_weights_that_do_not_sum_as_the_model_says_are_found() -> None:
    """vLLM's OLMoE never makes gate weights sum to 1, whatever the checkpoint says."""
    logits = logits_of(4)
    weights, ids = Router()._compute_routing(None, logits)
    assert weights_problem(SPEC, ids, weights, logits, normalises=True) is None
    assert weights_problem(SPEC, ids, weights, logits, normalises=False) is not None
    config = SimpleNamespace(norm_topk_prob=False, num_experts_per_tok=K, num_experts=EXPERTS)
    assert "renormalize" in contradictions(config, "layers.3", Router(), "Olmoe")[0]
    assert not contradictions(SimpleNamespace(norm_topk_prob=True), "layers.3", Router(), "Olmoe")


def test_a_kernel_that_chooses_by_itself_is_refused_by_name() -> None:
    def layer(monolithic: bool) -> Any:
        method = type("Fp4Method", (), {"is_monolithic": monolithic})()
        return SimpleNamespace(router=Router(), routed_experts=SimpleNamespace(quant_method=method))

    assert "Fp4Method" in str(refused("layers.3", layer(True), Router))
    assert refused("layers.3", layer(False), Router) is None
    assert "Router" in str(refused("layers.3", layer(False), Experts))
    handed = layer(False)
    handed._moe_state = SimpleNamespace(topk_ids=None)
    assert "transformers' code inside vLLM chooses" in str(refused("layers.3", handed, Router))


def test_gate_weights_in_place_of_logits_are_not_recorded() -> None:
    """One column would be copied into every expert's place."""
    buffers, router, experts = tapped()
    with pytest.raises(RuntimeError, match=r"layers\.3: 2 logits for 6 experts"):
        step(buffers, router, experts, logits_of(4)[:, :K])


def steered(logits: torch.Tensor, rules: list[dict[str, Any]], rows: slice, length: int = 99) -> Any:
    buffers, router, _ = tapped()
    buffers.begin_step()
    request = StepRequest(read_rules(rules), rows.start, rows.stop, length)
    positions = torch.arange(len(logits)) - rows.start
    buffers.steering = StepSteering([request], positions, [True])
    weights, ids = router._compute_routing(None, logits, None)
    return buffers, weights, ids


@pytest.mark.parametrize(
    "rules",
    [
        [{"rule": "off", "experts": [0, 1, 2]}],
        [{"rule": "on", "experts": [4]}],
        [{"rule": "bias", "experts": [2, 3], "amount": 3.0}],
        [{"rule": "scale", "experts": [0, 1, 2], "amount": 0.25}],
        [{"rule": "keep_only", "experts": [5]}],
        [{"rule": "top_k", "amount": 1}],
    ],
)
def test_rules_reach_only_the_rows_of_their_request(rules: list[dict[str, Any]]) -> None:
    logits = logits_of(7)
    buffers, weights, ids = steered(logits, rules, slice(2, 5))
    plain_weights, plain_ids = Router()._compute_routing(None, logits)
    others = torch.tensor([0, 1, 5, 6])
    assert torch.equal(ids[others], plain_ids[others])
    assert torch.equal(weights[others], plain_weights[others])
    # Alone, the same rows are steered to the same decision.
    alone, own_weights, own_ids = steered(logits[2:5], rules, slice(0, 3))
    assert torch.equal(ids[2:5], own_ids)
    assert torch.equal(weights[2:5], own_weights)
    assert not torch.equal(buffers.ids_LNK[0, 2:5], plain_ids[2:5]) or not torch.equal(
        weights[2:5], plain_weights[2:5]
    )
    assert torch.equal(alone.ids_LNK[0, :3], buffers.ids_LNK[0, 2:5])


def test_a_masked_expert_is_never_executed() -> None:
    buffers, weights, ids = steered(logits_of(5), [{"rule": "keep_only", "experts": [5]}], slice(0, 5))
    assert (ids == 5).all()
    assert torch.allclose(weights.sum(-1), torch.ones(5))
    assert torch.equal(buffers.ids_LNK[0, :5], torch.tensor([[5, -1]] * 5, dtype=torch.int32))


def test_a_span_ends_where_the_prompt_ends() -> None:
    logits = logits_of(6)
    rules = [{"rule": "off", "experts": [0, 1, 2, 3], "span": "generation"}]
    _, _, ids = steered(logits, rules, slice(0, 6), length=4)
    assert torch.equal(ids[:4], Router()._compute_routing(None, logits)[1][:4])
    assert (ids[4:] >= 4).all()


def test_what_cannot_be_had_is_named() -> None:
    rules = read_rules([{"rule": "vector", "vector": [1.0] * EXPERTS}, {"rule": "off", "experts": [1]}])
    assert "vector" in unsteerable(rules, [SPEC], [False])[0]
    assert len(unsteerable(rules, [SPEC], [False])) == 1
    assert "can't be guaranteed" in unsteerable(rules, [SPEC], [True])[1]


def rows_of(request: int, positions: list[int], seed: int) -> StepRows:
    logits = logits_of(len(positions), seed).unsqueeze(1)
    weights, ids = Router()._compute_routing(None, logits[:, 0])
    return StepRows(
        np.full(len(positions), request), torch.tensor(positions), torch.tensor(positions) + 100,
        ids.unsqueeze(0), weights.unsqueeze(0), logits.transpose(0, 1),
    )  # fmt: skip


def test_the_last_computation_of_a_position_is_kept_and_others_are_counted(tmp_path: Path) -> None:
    spool = Spool([SPEC], ("ids", "weights", "logits"), [2.5])
    first, other = rows_of(1, [0, 1, 2, 3], 1), rows_of(2, [0, 1], 2)
    again, late = rows_of(1, [0, 1, 2, 3, 4], 3), rows_of(1, [5], 4)
    for rows in (first, other, again, late):
        spool.add(rows)
    spool.add(Order(tmp_path / "a.npz", {1: np.array([1, 0, 0, 2, 4])}))
    spool.add(Order(tmp_path / "b.npz", {2: np.array([0, 0])}))
    spool.close()
    found = np.load(tmp_path / "a.npz")
    assert found["position"].tolist() == [0, 1, 2, 3, 4]  # position 5 was never part of the answer
    assert int(found["recomputed"][0]) == 4
    assert np.array_equal(found["0/logits"], again.logits_LNE[0].numpy())
    assert np.allclose(found["weights"][:, 0], 2.5 * again.weights_LNK[0].numpy())
    p = again.logits_LNE[0].double().softmax(-1).numpy()
    assert found["segments"].tolist() == [8, 9, 10, 12]  # request 1: plain, special, completion, generated
    expected = np.stack([p[1] + p[2], p[0], p[3], p[4]])
    assert np.allclose(found["0/probability_sum"], expected, atol=1e-6)
    entropy = -(p * np.log(p)).sum(-1)
    assert np.allclose(
        found["0/entropy_sum"], [entropy[1] + entropy[2], entropy[0], entropy[3], entropy[4]], atol=1e-5
    )
    assert np.load(tmp_path / "b.npz")["token"].tolist() == [100, 101]


def test_a_row_that_no_tap_saw_stops_the_spool(tmp_path: Path) -> None:
    spool, rows = Spool([SPEC], ("ids",), [1.0]), rows_of(1, [0, 1], 1)
    rows.ids_LNK[0, 1] = UNSEEN
    spool.add(rows)
    spool.close()
    assert "layers [3]" in str(spool.failure)
    with pytest.raises(RuntimeError, match="were not recorded"):
        spool.add(Order(tmp_path / "a.npz", {1: np.array([0, 0])}))


def test_a_dummy_step_is_not_taken_for_the_step_before() -> None:
    """An idle data-parallel rank runs the model while its batch still holds the requests of before."""

    class Runner:
        input_batch = SimpleNamespace(num_reqs=1, req_ids=["a"])
        query_start_loc = SimpleNamespace(np=np.array([0, 2]))

        def execute_model(self, output: Any) -> None:
            if output.total_num_scheduled_tokens:
                self._model_forward(torch.zeros(2), torch.arange(2))

        def _model_forward(self, input_ids: Any, positions: Any) -> None: ...

    class Watcher:
        def __init__(self) -> None:
            self.steps: list[Step] = []

        def scheduled(self, output: Any) -> None: ...
        def before(self, step: Step) -> None: ...
        def after(self, step: Step) -> None:
            self.steps.append(step)

    runner: Any = Runner()
    watcher = Watcher()
    watch(runner, watcher)
    runner.execute_model(SimpleNamespace(total_num_scheduled_tokens=2))
    runner._model_forward(torch.zeros(2), torch.arange(2))
    assert [step.requests for step in watcher.steps] == [["a"]]


class Rotary(torch.nn.Module):
    """vLLM's interface; `kernel` is what its forward does."""

    head_size = 4

    def __init__(self, kernel: Any) -> None:
        super().__init__()
        self.cos_sin_cache, self.kernel = torch.zeros(8, 4), kernel

    def forward_native(self, positions: Any, query: torch.Tensor, key: torch.Tensor) -> Any:
        turn = positions.float().cos()[:, None, None]
        return query * turn, key * turn

    def forward(self, positions: Any, query: torch.Tensor, key: torch.Tensor) -> Any:
        return self.kernel(self, positions, query, key)


def test_a_rotary_kernel_that_takes_heads_for_one_is_named_with_the_way_out() -> None:
    def wrong(rotary: Rotary, positions: Any, query: torch.Tensor, key: torch.Tensor) -> Any:
        query = query.clone()
        query[:, 0] = rotary.forward_native(positions, query[:, :1], key)[0][:, 0]
        return query, key

    assert (
        rotation_problems(torch.nn.Sequential(Rotary(Rotary.forward_native)), "DeepseekV3ForCausalLM") == []
    )
    (said,) = rotation_problems(torch.nn.Sequential(Rotary(wrong)), "DeepseekV3ForCausalLM")
    assert "rotates the wrong elements" in said
    assert '"-rotary_embedding"' in said


def test_what_went_wrong_in_any_rank_reaches_the_driver(tmp_path: Path) -> None:
    """The answers of other ranks than the first do not; their files do."""
    put_problem(tmp_path / "000000-001.npz", "layers [3]: its experts received other ids than it chose")
    with pytest.raises(CaptureError, match="received other ids than it chose"):
        read_files([str(tmp_path / "000000-001.npz")])

# pyright: reportArgumentType=false
"""Holds moescope's tracer against what one architecture executes; `test_conformance` runs it over all.

`examine` makes every check on a tiny model of a family and returns what it found, one sentence a failure.
`python tests/tracer/conformance.py` writes docs/architectures.md from the results.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
import zoo
from torch import Tensor
from torch.overrides import TorchFunctionMode
from zoo_expected import Expected, expected
from zoo_pruned import pruned
from zoo_witness import Execution, witness

from moescope.store import RouterSpec
from moescope.tracer import Steering, find_routers, record_routing
from moescope.tracer.errors import CaptureError, SteeringError
from moescope.tracer.hooks.outputs import OUTPUTS, OutputWatch
from moescope.tracer.hooks.record import Routing
from moescope.tracer.routers.scoring import SCORING

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"
NOT_PROPORTIONAL = {
    "phimoe": "masked softmaxes",
    "gemma4": "scale by expert",
    "diffusion_gemma": "scale by expert",
}
"""Families whose gate weights are not proportional to their scores, and why."""
NOT_REPLAYED = {
    "doge": "experts are looked up before the choice can be replaced",
    "nllb_moe": "a mask beside the gate weights says which experts run",
}
"""Families where replay is refused, and why."""
NOT_OVERRIDDEN = {
    "dbrx": "top-k is called beside the router, not in it",
    "deepseek_v2": "scores outside the chosen groups are zeroed before top-k",
    "switch_transformers": "the choice is an argmax",
    "vitpose": "there is no choice",
    "vitpose_backbone": "there is no choice",
}
"""Families where the model's own top-k can't be overridden, to see which weights it gives a foreign choice."""

NOT_PERMUTED = {
    "jetmoe": "its experts are no module of their own",
    "llama4": "its experts are no module that tells ids",
    "switch_transformers": "each expert is a module of its own",
    "vitpose": "there is no choice",
    "vitpose_backbone": "there is no choice",
}
"""Families whose experts are not permuted to see that replaying a permuted routing is the permuted model, and why."""


@dataclass
class Result:
    """What was found of one family."""

    family: str
    routers: list[RouterSpec] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    not_run: str = ""
    """Why no check could run."""
    unsteerable: list[RouterSpec] = field(default_factory=list)
    outputs: str = "–"
    """Which captures of the experts' outputs there are: `output_norm`, `similarity`, both, or none."""
    pruned: str = "–"
    """Whether a checkpoint with fewer experts can be made; – where a trace has no place for the model."""


def examine(family: zoo.Family) -> Result:
    """All checks on one family."""
    result = Result(family.name)
    if family.name in zoo.NOT_RUN:
        result.not_run = zoo.NOT_RUN[family.name]
        return result
    with warnings.catch_warnings(), torch.no_grad(), _quiet():
        warnings.simplefilter("ignore")
        model = zoo.build(family)
        known = expected(family, model.config)
        if not known:
            result.not_run = "has no experts of its own"
            return result
        result.routers = find_routers(model)
        result.unsteerable = [spec for spec in result.routers if not spec.steerable]
        _Examination(family, model, result).run(known)
    return result


class _Examination:
    def __init__(self, family: zoo.Family, model: Any, result: Result) -> None:
        self.family, self.model, self.result = family, model, result
        self.batch = zoo.inputs(family, model.config)
        self.called: list[RouterSpec] = []

    def run(self, known: Sequence[Expected]) -> None:
        self.configuration(known)
        before = _hooks(self.model)
        base = self.model(**self.batch)
        routing = self.executed(base)
        self.neutral(base)
        self.steered(routing)
        self.replayed(base, routing)
        self.outputs()
        self.require(_hooks(self.model) == before, "hooks are left")
        self.result.pruned, failures = pruned(self.family, self.model)
        self.result.failures += failures

    def require(self, holds: bool, failure: str) -> None:
        if not holds:
            self.result.failures.append(failure)

    def configuration(self, known: Sequence[Expected]) -> None:
        """5. As the configuration says."""
        found = sorted(
            Expected(s.layer, s.stream, s.num_experts, s.top_k or 0, s.scoring) for s in self.result.routers
        )
        self.require(found == list(known), f"found {found}, but the configuration says {list(known)}")

    def executed(self, base: Any) -> Routing:
        """1. What the experts got, in prefill and decode, padding on either side; 2. the logits explain it."""
        with record_routing(self.model) as routing, witness(self.model) as seen:
            output = self.model(**self.batch)
        self.require(_identical(base, output), "recording changes the output")
        self.called = [spec for spec in self.result.routers if _executions(spec, seen)]
        self.compare(seen, routing, "forward")
        self.explain(routing)
        if (options := zoo.generation(self.family, self.model)) is not None:
            self.decoded(options)
        return routing

    def decoded(self, options: dict[str, Any]) -> None:
        batch = zoo.inputs(self.family, self.model.config, side="left", seed=1)
        batch = {name: value for name, value in batch.items() if not name.startswith("decoder_")}
        with record_routing(self.model) as routing, witness(self.model) as seen:
            self.model.generate(**batch, **options)
        self.compare(seen, routing, "generate")

    def compare(self, seen: list[Execution], routing: Routing, when: str) -> None:
        for spec in self.called:
            runs = _executions(spec, seen)
            ids, weights = (torch.cat(parts) for parts in zip(*(run.in_order() for run in runs), strict=True))
            ours, our_weights = routing.ids(spec.layer, spec.stream), routing.weights(spec.layer, spec.stream)
            if self.family.folder == "zaya":
                # The skip choice reaches the experts as expert 0 with weight 0.
                ours = ours.masked_fill(ours == spec.num_experts - 1, 0)
            where = f"{spec.stream} layer {spec.layer}, {when}"
            self.require(torch.equal(ours, ids), f"{where}: recorded ids are not those executed")
            if our_weights is None:
                continue
            # The witness of Llama 4 sees weights only as what its experts' inputs were multiplied by.
            same = torch.allclose if self.family.folder == "llama4" else torch.equal
            self.require(same(our_weights, weights), f"{where}: recorded weights are not those executed")

    def explain(self, routing: Routing) -> None:
        for spec in self.called:
            p_TE, ids_TK = (
                routing.probabilities(spec.layer, spec.stream),
                routing.ids(spec.layer, spec.stream),
            )
            weights_TK = routing.weights(spec.layer, spec.stream)
            if spec.scoring == "none" or self.family.folder in NOT_PROPORTIONAL:
                continue
            assert p_TE is not None
            assert weights_TK is not None
            used_TK = (ids_TK >= 0) & (weights_TK > 0)
            ratio_TK = weights_TK.float() / p_TE.gather(-1, ids_TK.clamp(min=0))
            first_T1 = ratio_TK[:, :1].expand_as(ratio_TK)
            self.require(
                torch.allclose(ratio_TK[used_TK], first_T1[used_TK], rtol=1e-3),
                f"{spec.stream} layer {spec.layer}: {spec.scoring} of the logits does not explain the weights",
            )

    def neutral(self, base: Any) -> None:
        """3. Without effect, bit for bit."""
        rules = [{"rule": "bias", "experts": "all", "amount": 0.0}, {"rule": "temperature", "amount": 1.0},
                 {"rule": "scale", "experts": "all", "amount": 1.0}]  # fmt: skip
        with Steering([{**rule, "stream": "all"} for rule in rules]).applied(self.model):
            steered = self.model(**self.batch)
        self.require(_identical(base, steered), "neutral steering changes the output")

    def steered(self, base: Routing) -> None:
        """4. An expert that is off never appears, one that is on always, and a bias does not lower its share."""
        able = [spec for spec in self.called if spec.steerable]
        if not able:
            return
        last = min(spec.num_experts for spec in able) - 1
        for gone, forced in ((0, last), (last, last // 2), (last // 2, 0)):
            self.told(able, gone, forced)
        routing = self.under(able, {"rule": "bias", "experts": [last], "amount": 1.0})
        for spec in _first_of_each_stream(able):
            before, after = ((r.ids(spec.layer, spec.stream) == last).sum() for r in (base, routing))
            self.require(
                bool(after >= before), f"a bias lowers the share in {spec.stream} layer {spec.layer}"
            )

    def told(self, able: Sequence[RouterSpec], gone: int, forced: int) -> None:
        routing = self.under(able, {"rule": "off", "experts": [gone]}, {"rule": "on", "experts": [forced]})
        for spec in able:
            ids_TK, where = routing.ids(spec.layer, spec.stream), f"{spec.stream} layer {spec.layer}"
            # NLLB-MoE gives padding no experts at all.
            routed_T = (ids_TK >= 0).any(-1)
            self.require(not (ids_TK == gone).any(), f"an expert that is off appears in {where}")
            always = (ids_TK == forced).any(-1)[routed_T].all()
            self.require(bool(always), f"an expert that is on is missing in {where}")

    def replayed(self, base: Any, routing: Routing) -> None:
        """6. Replaying its own routing changes nothing, bit for bit; replaying a steered one executes that."""
        weighed = [s for s in self.called if routing.weights(s.layer, s.stream) is not None]
        if self.family.folder in NOT_REPLAYED:
            self.refused(Steering.replay(routing))
            return
        for weights in ("recorded", "live"):
            steering, _ = self.replaying(routing, weighed, weights)
            with steering.applied(self.model):
                output = self.model(**self.batch)
            self.require(
                _identical(base, output), f"replaying its own routing ({weights}) changes the output"
            )
        self.permuted(base, routing, weighed)
        able = [spec for spec in weighed if spec.steerable]
        if not able:
            return
        other = self.under(able, {"rule": "off", "experts": [0]})
        steered = Steering(
            [{"rule": "off", "experts": [0], "stream": s} for s in {spec.stream for spec in able}]
        )
        with steered.applied(self.model):
            wanted = self.model(**self.batch)
        steering, _ = self.replaying(other, able, "recorded")
        with steering.applied(self.model):
            found = self.model(**self.batch)
        self.require(
            _alike(found, wanted), "replaying a foreign routing does not give the output of that routing"
        )
        self.require(not _alike(found, base), "replaying a foreign routing changes nothing")
        self.replayed_live(other, able)

    def permuted(self, base: Any, routing: Routing, specs: Sequence[RouterSpec]) -> None:
        """Experts that change places in the model and in what is replayed give the same output."""
        if self.family.folder in NOT_PERMUTED:
            return
        renamed, moved, kept = copy.deepcopy(routing), dict[int, Tensor](), []
        for spec in specs:
            tensors = [t for t in self.model.get_submodule(spec.experts or "").parameters() if t.dim() > 1]
            # Experts without weights of their own (of nothing, of the input itself) come last, and stay.
            real = min(len(tensor) for tensor in tensors)
            real = spec.num_experts if real % spec.num_experts == 0 else real
            to = torch.cat([torch.arange(real).roll(-1), torch.arange(real, spec.num_experts)])
            renamed._calls[spec.key] = [
                (torch.where(ids < 0, ids, to[ids.clamp(min=0)]), weights, logits)
                for ids, weights, logits in renamed._calls[spec.key]
            ]
            for tensor in tensors:
                count = spec.num_experts if len(tensor) % spec.num_experts == 0 else real
                rows = tensor.data.view(count, -1)  # some keep the rows of all experts in one matrix
                new = torch.cat([rows[:real].roll(1, 0), rows[real:]])
                moved[id(tensor)] = new.view(tensor.shape)  # once: layers may share them
                kept.append((tensor, tensor.data))
        for tensor, _ in kept:
            tensor.data = moved[id(tensor)]
        steering, _ = self.replaying(renamed, specs, "recorded")
        plain = self.model(**self.batch)
        with steering.applied(self.model):
            found = self.model(**self.batch)
        for tensor, data in kept:
            tensor.data = data
        self.require(not _alike(plain, base), "permuting the experts changes nothing")
        self.require(_alike(found, base), "replaying a permuted routing is not the permuted model")

    def replayed_live(self, other: Routing, able: list[RouterSpec]) -> None:
        """Gate weights of a foreign choice are those that the model itself gives it: its own top-k is overridden."""
        steering, acting = self.replaying(other, able, "live")
        forced = ForcedTopK(self.model, other, acting)
        with forced:
            wanted = self.model(**self.batch)
        if self.family.folder in NOT_OVERRIDDEN | NOT_PROPORTIONAL:
            return
        self.require(forced.ran, "the model's own top-k could not be overridden")
        with steering.applied(self.model):
            found = self.model(**self.batch)
        self.require(
            _alike(found, wanted), "live gate weights are not those that the model gives this choice"
        )

    def refused(self, steering: Steering) -> None:
        try:
            with steering.applied(self.model):
                self.require(False, "replay is not refused")
        except SteeringError:
            return

    def replaying(
        self, routing: Routing, specs: Sequence[RouterSpec], weights: str
    ) -> tuple[Steering, list[Any]]:
        """The steering that replays a routing at these routers, where live weights can be told, and those routers."""
        unfit = weights == "live" and self.family.folder in NOT_PROPORTIONAL
        acting = [] if unfit else [s for s in specs if weights == "recorded" or s.scoring in SCORING]
        steering = Steering()
        for stream in sorted({spec.stream for spec in acting}):
            layers = [spec.layer for spec in acting if spec.stream == stream]
            steering += Steering.replay(routing, weights=weights, layers=layers, stream=stream)
        return steering, acting

    def outputs(self) -> None:
        """What experts put out is told, or refused; a trace has no place for encoder-decoder models."""
        if getattr(self.model.config, "is_encoder_decoder", False) or "input_ids" not in self.batch:
            return
        told = [name for name in OUTPUTS if self.tells(name)]
        self.result.outputs = ", ".join(f"`{name}`" for name in told) or "no"

    def tells(self, name: str) -> bool:
        try:
            OutputWatch(self.model, _Nobody(), self.batch, capture=[name])
        except CaptureError:
            return False
        return True

    def under(self, able: Sequence[RouterSpec], *rules: dict[str, Any]) -> Routing:
        streams = sorted({spec.stream for spec in able})
        steering = Steering([{**rule, "stream": stream} for rule in rules for stream in streams])
        with steering.applied(self.model), record_routing(self.model) as routing:
            output = self.model(**self.batch)
        self.require(_finite(output), f"{rules[0]['rule']}: the output is not finite")
        return routing


class ForcedTopK(TorchFunctionMode):
    """Inside these routers, the call of top-k that chooses experts gives the ids of a recorded routing instead: the
    model's own code makes gate weights of them."""

    def __init__(self, model: Any, routing: Routing, specs: Sequence[RouterSpec]) -> None:
        super().__init__()
        self._routers = [(model.get_submodule(spec.router), spec) for spec in specs]
        self._routing, self._now, self._handles = routing, None, []
        self._done: set[tuple[int, str]] = set()

    @property
    def ran(self) -> bool:
        """Whether every router was forced, once."""
        return bool(self._routers) and len(self._done) == len(self._routers)

    def __enter__(self) -> ForcedTopK:
        for router, spec in self._routers:
            self._handles += [
                router.register_forward_pre_hook(lambda *_, spec=spec: setattr(self, "_now", spec)),
                router.register_forward_hook(lambda *_: setattr(self, "_now", None)),
            ]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output, spec = func(*args, **(kwargs or {})), self._now
        if spec is None or func not in (torch.topk, Tensor.topk):
            return output
        scores, ids_TK = args[0], self._routing.ids(spec.layer, spec.stream)
        whole = scores.shape[-1] >= spec.num_experts and output.indices.numel() == ids_TK.numel()
        if not whole or (ids_TK < 0).any():
            return output
        forced = ids_TK.reshape(output.indices.shape)
        self._done.add(spec.key)
        return torch.return_types.topk((scores.gather(-1, forced), forced))


class _Nobody:
    recording = False

    def routed(self, spec: Any, expert_ids_TK: Any, weights_TK: Any, logits_TE: Any) -> None:
        pass

    def put_out(self, spec: Any, norms_TK: Any, similarity_T: Any) -> None:
        pass


def _alike(a: Any, b: Any) -> bool:
    """Whether two outputs are the same up to the order in which experts are added up."""
    return all(
        torch.allclose(x, y, rtol=1e-3, atol=1e-4) for x, y in zip(_tensors(a), _tensors(b), strict=True)
    )


def _hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def _executions(spec: RouterSpec, seen: list[Execution]) -> list[Execution]:
    return [run for run in seen if run.path in (spec.experts, spec.router)]


def _first_of_each_stream(specs: Sequence[RouterSpec]) -> list[RouterSpec]:
    """Later layers see what earlier ones changed."""
    return list({spec.stream: spec for spec in reversed(specs)}.values())


def _tensors(output: Any) -> Iterator[Tensor]:
    values = output.values() if hasattr(output, "values") else output
    yield from (value for value in values if isinstance(value, Tensor))


def _identical(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(_tensors(a), _tensors(b), strict=True))


def _finite(output: Any) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in _tensors(output))


@contextmanager
def _quiet() -> Iterator[None]:
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def table(results: Sequence[Result]) -> str:
    """docs/architectures.md."""
    ran = [result for result in results if not result.not_run]
    traced = [result for result in ran if not result.failures]
    lines = [
        "# Architectures",
        "",
        "Made by `python tests/tracer/conformance.py` from the conformance suite: a tiny random-weight model of "
        "every architecture of the installed transformers whose blocks hold routed experts, in float32 on the CPU.",
        "",
        "**Traced** means: for every token of a forward pass and of generation with a cache, padded on either "
        "side, the recorded experts and gate weights equal what the experts module received, and the recorded "
        "logits explain the weights. **Steered** means: an expert that is `off` never appears, one that is `on` "
        "always does, in every layer, and a neutral steering leaves the output bit-identical; so does "
        "replaying the model's own routing; a replayed foreign routing is executed, and gets the gate weights that the "
        "model's own code gives it when its top-k is overridden (not told so for "
        f"{_told(NOT_OVERRIDDEN)}). Where experts change places in the model and in the replayed routing alike, "
        f"nothing changes (not told so for {_told(NOT_PERMUTED)}). "
        f"Replay is refused for {_told(NOT_REPLAYED)}, with live gate weights also for "
        f"{_told(NOT_PROPORTIONAL)}. **Outputs** names the "
        "captures of what experts put out that can be told there: the chosen experts, run one by one with their "
        "gate weights, add up to what the experts module returned (`output_norm`), and that is found again, "
        "by itself, in what the layer adds to its residual stream (`similarity`); elsewhere they are refused. "
        "**Pruned** means: transformers load the checkpoint of `moescope prune` with half of the experts, and its "
        "logits equal those of the whole model under `keep_only`; elsewhere it is refused.",
        "",
        f"transformers {transformers.__version__}: {len(traced)} of {len(ran)} models that run are traced; "
        f"{len(results) - len(ran)} cannot be run alone.",
        "",
        "| family | traced | steered | routers | experts | per token | scoring | outputs | pruned | notes |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_row(result) for result in results),
        "",
    ]
    return "\n".join(lines)


def _told(families: dict[str, str]) -> str:
    return ", ".join(f"{name} ({why})" for name, why in families.items())


def _row(result: Result) -> str:
    if result.not_run:
        return f"| {result.family} | – | – | – | – | – | – | – | – | not run: {result.not_run} |"
    specs, fixed = result.routers, result.unsteerable
    steered = "yes" if not fixed else "no" if len(fixed) == len(specs) else "in part"
    notes = [*dict.fromkeys(spec.note for spec in specs if spec.note), *result.failures]
    streams = ", ".join(dict.fromkeys(spec.stream for spec in specs))
    cells = [
        result.family, "no" if result.failures else "yes", steered, streams, _values(s.num_experts for s in specs),
        _values(s.top_k for s in specs), _values(s.scoring for s in specs), result.outputs, result.pruned,
        " ".join(notes),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _values(values: Any) -> str:
    return ", ".join(str(value) for value in dict.fromkeys(values))


def documented() -> set[str]:
    """The families that docs/architectures.md names."""
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {row.split("|")[1].strip() for row in rows[1:]}


if __name__ == "__main__":
    DOCUMENT.write_text(table([examine(family) for family in zoo.discover()]), encoding="utf-8")

"""Checks, on a real model, that what is recorded is what is executed.

`self_check` goes around the first batch of a trace. While hooks record as always, the forward of every
experts module is wrapped, and what its call really gets is compared with what was recorded: the same experts
with the same gate weights, for every token, at every router, and none left out. The recorded logits must
explain the gate weights by the scoring function that the trace will name. `diagnose` does the same for
`moescope doctor`, and tries the steering too.

Shapes: T token rows, K experts per token, E experts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from ...store.schema import RouterSpec
from ..errors import CaptureError
from ..models.layout import as_on_rank_0, layout_of
from ..routers.find import IDS, WEIGHTS, find_sites
from ..routers.passages import flat
from ..routers.scoring import router_probabilities
from ..routers.site import Site
from .record import attach
from .taps import is_steered

SPREAD = 0.05
"""How far gate weights may lie from the scores that explain them, as a difference of logarithms: wide enough
for bfloat16, far narrower than any wrong scoring function."""

Decision = tuple[Tensor, Tensor | None, Tensor | None]


@dataclass
class RouterCheck:
    """What was seen of one router."""

    spec: RouterSpec
    calls: int = 0
    rows: int = 0
    slots: int = 0
    """Choices recorded, empty slots included."""
    expected: int | None = None
    """Tokens x k, where k is fixed and no steering is in force."""
    executed: bool | None = None
    """Whether the experts got what was recorded; None where no call can be compared."""
    explained: bool | None = None
    """Whether the logits explain the gate weights; None where they cannot."""
    problems: list[str] = field(default_factory=list)


@dataclass
class SelfCheck:
    """The result of a self-check, one entry a router."""

    routers: list[RouterCheck] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        return [problem for router in self.routers for problem in router.problems]


@contextmanager
def self_check(model: nn.Module, *, routers: Sequence[RouterSpec] | None = None) -> Iterator[SelfCheck]:
    """Check everything that is recorded of the model while the context is open; costs about one more copy.

    Raises:
        CaptureError: at the end, naming the module, where recorded and executed routing differ.
    """
    with examined(model, routers=routers) as result:
        yield result
    if result.problems:
        raise CaptureError("recorded and executed routing differ: " + "; ".join(result.problems[:3]))


@contextmanager
def examined(model: nn.Module, *, routers: Sequence[RouterSpec] | None = None) -> Iterator[SelfCheck]:
    """As `self_check`, but problems are only listed."""
    result, recorded, executed = SelfCheck(), _Recorded(), dict[str, list[Decision]]()
    sites = find_sites(model, routers)
    with ExitStack() as stack:
        for site in sites:
            if site.passage.at == "experts" and site.experts is not None:
                stack.enter_context(_watched(site.experts, executed.setdefault(site.spec.router, [])))
        stack.enter_context(attach(model, recorded, routers=routers))
        yield result
        steered = {site.spec.router: is_steered(site) for site in sites}
    for site in sites:
        name = site.spec.router
        seen = recorded.calls.get(name, []), executed.get(name)
        result.routers.append(_compared(site, *seen, steered=steered[name]))
    _count(result)
    if layout_of(model).ranks > 1:
        _compare_ranks(result, recorded)


class _Recorded:
    def __init__(self) -> None:
        self.calls: dict[str, list[Decision]] = {}

    def routed(
        self, spec: RouterSpec, expert_ids_TK: Tensor, weights_TK: Tensor | None, logits_TE: Tensor | None
    ) -> None:
        self.calls.setdefault(spec.router, []).append((expert_ids_TK, weights_TK, logits_TE))


@contextmanager
def _watched(experts: nn.Module, seen: list[Decision]) -> Iterator[None]:
    """Note the arguments of every call, by their names in the signature, without a hook."""
    forward: Callable[..., Any] = experts.forward
    bound = _arguments_of(experts)

    def watching(*args: Any, **kwargs: Any) -> Any:
        values = bound.bind(*args, **kwargs).arguments
        ids = next((value for name, value in values.items() if IDS.search(name)), None)
        weights = next((value for name, value in values.items() if WEIGHTS.search(name)), None)
        if isinstance(ids, Tensor):
            seen.append(
                (ids.detach().clone(), weights.detach().clone() if weights is not None else None, None)
            )
        return forward(*args, **kwargs)

    own = "forward" in vars(experts)
    experts.forward = watching
    try:
        yield
    finally:
        if own:
            experts.forward = forward
        else:
            del experts.forward


def _arguments_of(experts: nn.Module) -> inspect.Signature:
    """Of its forward as it was written: what tensor parallelism puts around it takes `(*args, **kwargs)`."""
    found = inspect.signature(experts.forward)
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if any(parameter.kind not in open_ended for parameter in found.parameters.values()):
        return found
    return inspect.signature(MethodType(type(experts).forward, experts))


def _compared(
    site: Site, recorded: list[Decision], executed: list[Decision] | None, *, steered: bool
) -> RouterCheck:
    spec = site.spec
    check = RouterCheck(spec, len(recorded), sum(len(ids) for ids, _, _ in recorded))
    check.slots = sum(ids.numel() for ids, _, _ in recorded)
    if spec.top_k is not None and not steered:
        check.expected = check.rows * spec.top_k
    if recorded and any(int(ids.max()) >= spec.num_experts for ids, _, _ in recorded if ids.numel()):
        check.problems.append(f"{spec.router} chose an expert beyond its {spec.num_experts}")
        return check
    if executed is not None and _same_form(recorded, executed):
        check.executed = len(recorded) == len(executed) and all(
            _agree(ours, theirs, spec.num_experts) for ours, theirs in zip(recorded, executed, strict=True)
        )
        if not check.executed:
            check.problems.append(
                f"{spec.experts} was called with other experts or weights than were recorded"
            )
    check.explained = _explained(site, recorded)
    if check.explained is False:
        check.problems.append(f"the logits of {spec.router} do not explain its weights by {spec.scoring}")
    return check


def _same_form(recorded: list[Decision], executed: list[Decision]) -> bool:
    """Whether the calls hand ids over as (T, K), as they are recorded, and not as a mask."""
    rows = [
        len(flat(ids)) for ids, weights, _ in executed if weights is not None and ids.shape == weights.shape
    ]
    return len(rows) == len(executed)


def _agree(ours: Decision, theirs: Decision, num_experts: int) -> bool:
    pairs: list[tuple[Tensor, Tensor]] = []
    for ids, weights, _ in (ours, theirs):
        if weights is None:
            return False
        pairs.append((flat(ids), flat(weights)))
    if all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(*pairs, strict=True)):
        return True  # slot by slot, as nearly always: cheaper to see than by expert
    dense = [_by_expert(ids_TK, weights_TK, num_experts) for ids_TK, weights_TK in pairs]
    # NaN weights are recorded as they were executed: two of them agree.
    return torch.allclose(*dense, rtol=0, atol=0, equal_nan=True)


def _by_expert(ids_TK: Tensor, weights_TK: Tensor, num_experts: int) -> Tensor:
    """(T, E) weights at their experts; slots that add nothing leave no trace."""
    dense_TE = weights_TK.new_zeros(len(ids_TK), num_experts)
    return dense_TE.scatter_add(-1, ids_TK.clamp(min=0).long(), weights_TK)


def _explained(site: Site, recorded: list[Decision]) -> bool | None:
    """Whether gate weights are proportional to the router's scores within every token."""
    spread: list[Tensor] = []
    for ids, weights, logits in recorded:
        score = router_probabilities(logits, site.spec.scoring)
        if not site.proportional or score is None or weights is None or not ids.numel():
            return None
        score_TK = score.gather(-1, ids.clamp(min=0).long())
        used_TK = (ids >= 0) & (weights > 0) & (score_TK > 1e-6)
        ratio_TK = (weights.float() / score_TK).log()
        high_T = ratio_TK.masked_fill(~used_TK, -torch.inf).amax(-1)
        low_T = ratio_TK.masked_fill(~used_TK, torch.inf).amin(-1)
        spread.append((high_T - low_T).clamp(min=0).max())
    return bool(torch.stack(spread).max() < SPREAD) if spread else None


def _count(result: SelfCheck) -> None:
    """Every router of a stream must have seen the same rows, and chosen k experts for each."""
    for stream in {check.spec.stream for check in result.routers}:
        checks = [check for check in result.routers if check.spec.stream == stream]
        rows = max(check.rows for check in checks)
        for check in checks:
            if check.rows != rows:
                check.problems.append(f"{check.spec.router} saw {check.rows} tokens, another router {rows}")
            if check.expected is not None and check.slots != check.expected:
                check.problems.append(
                    f"{check.spec.router} recorded {check.slots} choices for {check.rows} tokens x {check.spec.top_k}"
                )
    if result.routers and not any(check.calls for check in result.routers):
        result.routers[0].problems.append("no router was called at all: is the model compiled or offloaded?")


def _compare_ranks(result: SelfCheck, recorded: _Recorded) -> None:
    """Every rank of a model that is laid over several must have seen the choices that rank 0 saw, and writes."""
    for check in result.routers:
        calls = recorded.calls.get(check.spec.router, [])
        ids = [ids_TK.long().flatten() for ids_TK, _, _ in calls]
        if not as_on_rank_0(torch.cat(ids) if ids else torch.empty(0, dtype=torch.long)):
            check.problems.append(f"{check.spec.router} chose other experts here than on rank 0")

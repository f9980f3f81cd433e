"""What experts put out, for the captures `output_norm` and `similarity`; both after EASY-EP (arXiv 2504.06792).

For a token with residual stream x (what enters the layer's feed-forward part, before its norm), chosen experts
e with gate weights g_e and outputs o_e:

    output_norm[k] = ‖o_e‖₂ of the k-th chosen expert, before its gate weight
    similarity     = cos(x, x + r),   r = Σ_e g_e · o_e as the layer adds it, shared experts left out

so that an expert's score in the paper is Σ_tokens g · output_norm · max(0, 1 − similarity).

1. r is what the experts module returned; where x is seen, and by which constant r is scaled before it is added,
   is measured beforehand (`outputs_probe`).
2. An o_e alone exists nowhere in a fused experts module. So the module's own forward runs once more, on every
   pair of token and chosen expert with weight 1: whatever its activation, biases, layout and kernel are.
   That doubles the work of the experts.
3. Before the trace begins, Σ g_e · o_e is held against what the experts module returned.

Shapes: T token rows, K experts per token, H width, N pairs of token and expert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ...store.schema import RouterSpec
from ..errors import CaptureError
from ..routers.find import find_sites
from ..routers.passages import Call
from ..routers.site import Site
from .outputs_probe import Addition, Tokens, probe, tolerance
from .taps import Sink

OUTPUTS = ("output_norm", "similarity")
PAIRS_AT_ONCE = 16384


class OutputSink(Sink, Protocol):
    """A sink that also receives what the experts put out, after the decision that they followed."""

    @property
    def recording(self) -> bool:
        """Whether it wants to know at this moment."""
        ...

    def put_out(self, spec: RouterSpec, norms_TK: Tensor | None, similarity_T: Tensor | None) -> None:
        """Norms in the order of the decision's experts, 0 for an empty slot; float32, on the model's device."""
        ...


class OutputWatch:
    """A sink for `record.attach` that hands decisions on to `sink`, and then what came of them.

    Args:
        model: whose experts are probed at once, on `inputs` of one forward pass.
        capture: which of `OUTPUTS`.
        routers: as for `attach`.
    Raises:
        CaptureError: a router whose experts' outputs can't be told, with the reason.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: nn.Module,
        sink: OutputSink,
        inputs: Tokens,
        *,
        capture: Sequence[str] = OUTPUTS,
        routers: Sequence[RouterSpec] | None = None,
    ) -> None:
        self._sink = sink
        self._norms, self._similarity = (name in capture for name in OUTPUTS)
        self._sites = [s for s in find_sites(model, routers) if s.spec.stream not in ("vision", "audio")]
        self._additions = probe(model, self._sites, inputs, residual=self._similarity)
        self._ids: dict[str, Tensor] = {}
        self._residuals: dict[str, Tensor] = {}
        for site in self._sites if self._norms else ():
            check_sum(site, self._additions[site.spec.router].call)
        for addition in self._additions.values():
            addition.call = None

    def routed(
        self, spec: RouterSpec, expert_ids_TK: Tensor, weights_TK: Tensor | None, logits_TE: Tensor | None
    ) -> None:
        if self._sink.recording:
            self._ids[spec.router] = expert_ids_TK
        self._sink.routed(spec, expert_ids_TK, weights_TK, logits_TE)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Watch the experts while the context is open; enter it after `attach`, with this as the sink."""
        with ExitStack() as stack:
            for site in self._sites:
                addition = self._additions[site.spec.router]
                for handle in self._watch(site, addition):
                    stack.callback(handle.remove)
            yield

    def _watch(self, site: Site, addition: Addition) -> list[Any]:
        assert site.experts is not None
        name, forward = site.spec.router, site.experts.forward

        def experts_ran(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._put_out(site, addition, Call(module, args, kwargs, output, run=forward))

        handles = [site.experts.register_forward_hook(experts_ran, with_kwargs=True)]
        if (place := addition.residual) is not None:

            def passed(module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
                if (x := place.tensor(args, kwargs, output)) is not None:
                    self._residuals[name] = x.detach()

            register: Callable[..., Any] = place.module.register_forward_hook
            if place.side == "in":
                register = place.module.register_forward_pre_hook
            handles.append(register(passed, with_kwargs=True))
        return handles

    def _put_out(self, site: Site, addition: Addition, call: Call) -> None:
        name = site.spec.router
        ids_TK, x = self._ids.pop(name, None), self._residuals.pop(name, None)
        if not self._sink.recording:
            return
        if ids_TK is None or (x is None and self._similarity):
            raise CaptureError(f"{site.spec.experts} ran without a decision of {name} before it")
        similarity_T = None
        if x is not None:
            routed_TH = site.passage.routed(call).float()
            x_TH = x.reshape(routed_TH.shape).float()
            similarity_T = cosine_similarity(x_TH, x_TH + addition.scale * routed_TH, dim=-1)
        norms_TK = output_norms(site, call, ids_TK) if self._norms else None
        self._sink.put_out(site.spec, norms_TK, similarity_T)


def output_norms(site: Site, call: Call, ids_TK: Tensor) -> Tensor:
    """(T, K) float32: ‖o_e‖₂ of these experts on the rows of a call, before any gate weight; 0 where the slot
    is empty (-1)."""
    rows_N = torch.arange(len(ids_TK), device=ids_TK.device).repeat_interleave(ids_TK.shape[-1])
    pairs = zip(rows_N.split(PAIRS_AT_ONCE), ids_TK.reshape(-1).split(PAIRS_AT_ONCE), strict=True)
    norms = [site.passage.alone(call, rows, ids.clamp(min=0)).float().norm(dim=-1) for rows, ids in pairs]
    return torch.cat(norms).reshape(ids_TK.shape).masked_fill(ids_TK < 0, 0)


def check_sum(site: Site, call: Call | None) -> None:
    """Single experts with their gate weights must add up to what the experts module returned.

    Raises:
        CaptureError: they do not.
    """
    assert call is not None
    ids_TK, _ = site.passage.read(call)
    rows_N = torch.arange(len(ids_TK), device=ids_TK.device).repeat_interleave(ids_TK.shape[-1])
    outputs_NH = site.passage.alone(call, rows_N, ids_TK.reshape(-1).clamp(min=0)).float()
    weights_N1 = site.passage.factors(call).masked_fill(ids_TK < 0, 0).reshape(-1, 1).float()
    returned_TH = site.passage.routed(call)
    sum_TH = torch.zeros_like(returned_TH, dtype=torch.float32).index_add(0, rows_N, outputs_NH * weights_N1)
    error = (sum_TH - returned_TH.float()).norm() / returned_TH.float().norm().clamp_min(1e-30)
    if not error < tolerance(returned_TH):
        raise CaptureError(
            f"{site.spec.experts}: its experts, run one by one with their gate weights, do not add up to its "
            f"output (off by {float(error):.1%}), so output_norm can't be recorded"
        )

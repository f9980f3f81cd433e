"""Records routing while a model runs.

    with record_routing(model) as routing:
        model(**inputs)
    routing.ids(layer=3)        # (T, k), as executed

`attach` is the same for a sink of one's own, without keeping anything.

Shapes: T token rows, K experts per token, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ...store.schema import RouterKey, RouterSpec
from ..errors import CaptureError
from ..routers.find import find_sites
from ..routers.scoring import router_probabilities
from ..routers.site import Site
from .taps import Sink, Tap, tapped


@contextmanager
def attach(
    model: nn.Module, sink: Sink, *, routers: Sequence[RouterSpec] | None = None, steering: Any = None
) -> Iterator[list[RouterSpec]]:
    """Hand every routing decision of the model to `sink.routed` while the context is open.

    Args:
        model: any model with routers that `find_routers` finds.
        sink: an object with `routed(spec, expert_ids_TK, weights_TK, logits_TE)`; see `taps.Sink`.
        routers: only these routers, or declarations of routers of one's own (`DeclaredRouter`).
        steering: a `Steering` to apply meanwhile; what is handed over is what was executed after it.
    Yields:
        The RouterSpecs that are recorded.
    """
    sites = find_sites(model, routers)

    def use(tap: Tap, site: Site) -> Callable[[], None]:
        entry = (sink, site.spec)
        tap.sinks.append(entry)
        return lambda: tap.sinks.remove(entry)

    with ExitStack() as stack:
        if steering is not None:
            stack.enter_context(steering.applied(model, routers=routers))
        stack.enter_context(tapped(sites, use))
        yield [site.spec for site in sites]


def record_routing(
    model: nn.Module, *, routers: Sequence[RouterSpec] | None = None, steering: Any = None
) -> AbstractContextManager[Routing]:
    """Keep every routing decision of the model made while the context is open.

    Everything stays on the model's device, logits included: for long runs use `attach` or `trace_prompts`.
    """
    return _record(model, routers, steering)


@contextmanager
def _record(model: nn.Module, routers: Sequence[RouterSpec] | None, steering: Any) -> Iterator[Routing]:
    routing = Routing()
    with attach(model, routing, routers=routers, steering=steering) as specs:
        routing.routers = specs
        yield routing


class Routing:
    """What `record_routing` recorded: one entry per router and call, rows in the order of the calls."""

    def __init__(self) -> None:
        self.routers: list[RouterSpec] = []
        self._calls: dict[RouterKey, list[tuple[Tensor, Tensor | None, Tensor | None]]] = {}

    def routed(
        self, spec: RouterSpec, expert_ids_TK: Tensor, weights_TK: Tensor | None, logits_TE: Tensor | None
    ) -> None:
        self._calls.setdefault(spec.key, []).append((expert_ids_TK, weights_TK, logits_TE))

    def called(self, layer: int, stream: str = "decoder") -> bool:
        """Whether anything passed that router; a text-only batch leaves vision routers alone."""
        return RouterKey(stream, layer) in self._calls

    def ids(self, layer: int, stream: str = "decoder") -> Tensor:
        """Chosen experts (T, K) in descending gate weight, int64; -1 is an empty slot.

        Every row that passed the router, in the order of the calls, padding included.
        """
        ids = self._column(layer, stream, 0)
        assert ids is not None
        return ids.long()

    def weights(self, layer: int, stream: str = "decoder") -> Tensor | None:
        """Gate weights (T, K) as they were executed, in the model's own dtype; None where there are none."""
        return self._column(layer, stream, 1)

    def logits(self, layer: int, stream: str = "decoder") -> Tensor | None:
        """Router logits (T, E) before softmax or sigmoid, after any steering; None where there are none."""
        return self._column(layer, stream, 2)

    def probabilities(self, layer: int, stream: str = "decoder") -> Tensor | None:
        """Router probabilities (T, E), float32, by the model's own scoring function over all experts."""
        return router_probabilities(self.logits(layer, stream), self._spec(layer, stream).scoring)

    def _spec(self, layer: int, stream: str) -> RouterSpec:
        for spec in self.routers:
            if spec.key == (stream, layer):
                return spec
        known = ", ".join(f"{spec.layer} ({spec.stream})" for spec in self.routers)
        raise KeyError(f"no router in layer {layer}, stream {stream!r}; there are routers in layers {known}")

    def _column(self, layer: int, stream: str, column: int) -> Tensor | None:
        spec = self._spec(layer, stream)
        calls = self._calls.get(RouterKey(stream, layer))
        if calls is None:
            raise CaptureError(f"no routing was recorded at {spec.router}: no forward pass ran through it")
        values = [value for call in calls if (value := call[column]) is not None]
        return torch.cat(_same_width(values, -1 if column == 0 else 0)) if len(values) == len(calls) else None


def _same_width(values: list[Tensor], fill: int) -> list[Tensor]:
    width = max(value.shape[-1] for value in values)
    return [pad(value, (0, width - value.shape[-1]), value=fill) for value in values]

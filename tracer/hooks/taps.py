"""Taps: the hooks on one router, shared by everyone who records or steers it.

A tap stands on a router while anyone needs it, and is taken away with the last of them. At each call of the
router it does, in this order whoever came first: take the logits, let the steering rewrite the decision, hand
what will be executed to the sinks. Recording therefore always shows what steering left.

Hooks never wait for a device, and make no Python object per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...store.schema import RouterSpec
from ..errors import CaptureError
from ..routers.passages import Call, by_weight, flat
from ..routers.site import Site

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Sink(Protocol):
    """Receives routing decisions while it is attached."""

    def routed(
        self, spec: RouterSpec, expert_ids_TK: Tensor, weights_TK: Tensor | None, logits_TE: Tensor | None
    ) -> None:
        """One call of one router, on the model's device: rows in the flattened (batch, position) order of the
        call, padding rows included; experts in descending gate weight, -1 for an empty slot. Tensors are the
        model's own: copy what must outlive the forward pass, never change it."""
        ...


class Decision(Protocol):
    """What is executed instead of the router's own decision, and what of it is recorded; see `steering/editor.py`."""

    ids_TK: Tensor
    weights_TK: Tensor
    recorded_ids_TK: Tensor
    factor_TD: Tensor | None


class Editor(Protocol):
    """Rewrites the decisions of one router: what steering gives to a tap, which knows nothing else of it."""

    @property
    def choice(self) -> Any:
        """A mode that is open while the router chooses, or None."""
        ...

    @property
    def wants_logits(self) -> bool: ...

    def settled(self, values: Iterable[Any], /) -> bool:
        """Whether a call with these arguments carries a decision that is as it should be, without a look at it."""
        ...

    def decide(
        self, ids_TK: Tensor, weights_TK: Tensor | None, logits_TE: Tensor | None, call: Call, /
    ) -> Decision | None: ...


@dataclass(frozen=True, eq=False)
class Steered:
    """One program of rules on a router, and what makes an editor of the site and all of its programs."""

    program: Any
    editor_of: Callable[[Site, list[Any]], Editor]


class Tap:
    """The hooks on one router."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.sinks: list[tuple[Sink, RouterSpec]] = []
        self._programs: list[Steered] = []
        self._editor: Editor | None = None
        self._scope_handles: list[RemovableHandle] = []
        self._logits_TE: Tensor | None = None
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        site = self.site
        assert site.logits_from is not None
        hooks = [site.logits_from.register_forward_hook(self._on_logits, with_kwargs=True)]
        if site.passage.at == "router":
            hooks.append(site.router.register_forward_hook(self._on_output, with_kwargs=True))
        elif site.passage.at == "output" and site.experts is not None:
            hooks.append(site.experts.register_forward_hook(self._on_output, with_kwargs=True))
        elif site.experts is not None:
            hooks.append(site.experts.register_forward_pre_hook(self._on_call, with_kwargs=True))
        if site.shared is not None:
            hooks.append(site.shared.register_forward_pre_hook(self._on_shared, with_kwargs=True))
        self._handles = hooks

    def detach(self) -> None:
        for handle in (*self._handles, *self._scope_handles):
            handle.remove()
        self._handles, self._scope_handles = [], []
        self._logits_TE = None

    @property
    def idle(self) -> bool:
        return not self.sinks and not self._programs

    @property
    def steered(self) -> bool:
        return bool(self._programs)

    def steer(self, steered: Steered) -> Callable[[], None]:
        """Steer by this program too, after those that are there; returns how to end that."""
        self._use([*self._programs, steered])
        return lambda: self._use([other for other in self._programs if other is not steered])

    def _use(self, programs: list[Steered]) -> None:
        for handle in self._scope_handles:
            handle.remove()
        self._scope_handles, self._programs = [], programs
        editor = programs[0].editor_of(self.site, [each.program for each in programs]) if programs else None
        self._editor = editor
        choice, scope = editor.choice if editor is not None else None, self.site.scope
        if choice is not None and scope is not None:
            self._scope_handles = [
                scope.register_forward_pre_hook(choice.begin),
                # First of the hooks, as all that runs while a choice is open costs more.
                scope.register_forward_hook(choice.end, always_call=True, prepend=True),
            ]

    @property
    def users(self) -> tuple[list[tuple[Sink, RouterSpec]], list[Steered]]:
        """Who records and who steers here at this moment."""
        return list(self.sinks), list(self._programs)

    def hand_over(self, sinks: list[tuple[Sink, RouterSpec]], programs: list[Steered]) -> None:
        """Let these record and steer from now on, and nobody else."""
        self.sinks[:] = sinks
        self._use(programs)

    def _on_logits(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> None:
        wanted = self._editor is not None and (self._editor.wants_logits or self.site.passage.fixed_ids)
        if self.sinks or wanted:
            logits = self.site.logits(Call(module, args, kwargs, output))
            self._logits_TE = None if logits is None else flat(logits.detach())

    def _on_call(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        if self._needs_no_look(args, kwargs):
            return None
        call = Call(module, args, kwargs)
        return (call.args, call.kwargs) if self._pass(call) else None

    def _on_shared(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        """Shared experts come after the chosen ones, and follow what was decided there."""
        factor_T1, self.site.passage.shared_factor_T1 = self.site.passage.shared_factor_T1, None
        if factor_T1 is None:
            return None
        gammas = kwargs["gammas"]
        changed_TS = flat(gammas).float() * factor_T1
        return args, kwargs | {"gammas": changed_TS.to(gammas.dtype).reshape(gammas.shape)}

    def _needs_no_look(self, args: Args, kwargs: Kwargs) -> bool:
        """Whether nobody records here, and what is executed is known to be as the steering wants it."""
        if self.sinks or self._editor is None or torch.compiler.is_compiling():
            return False
        if self._editor.choice is not None:
            self._editor.choice.pause()
        return self._editor.settled((*args, *kwargs.values()))

    def _on_output(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        call = Call(module, args, kwargs, output)
        return call.output if self._pass(call) else None

    def _pass(self, call: Call) -> bool:
        """Hand one decision on; True where the steering changed it."""
        if torch.compiler.is_compiling():
            raise CaptureError(
                f"{self.site.spec.router} runs inside a compiled graph, where hooks see nothing: generate "
                "with disable_compile=True, or load the model without torch.compile"
            )
        if self._editor is not None and self._editor.choice is not None:
            self._editor.choice.pause()
        try:
            ids_TK, weights_TK = self.site.passage.read(call)
        except CaptureError as error:
            raise CaptureError(f"{self.site.spec.experts or self.site.spec.router}: {error}") from None
        logits_TE, self._logits_TE = self._logits_TE, None
        if self.site.passage.scores_TE is not None:
            logits_TE = self.site.passage.scores_TE
        decision = None
        if self._editor is not None:
            decision = self._editor.decide(ids_TK, weights_TK, logits_TE, call)
        if decision is not None:
            self.site.passage.write(call, decision.ids_TK, decision.weights_TK)
            if decision.factor_TD is not None:
                self.site.passage.scale_input(call, decision.factor_TD)
            ids_TK, weights_TK = decision.recorded_ids_TK, decision.weights_TK
        if self.sinks:
            ids_TK = ids_TK.detach()
            ids_TK, weights_TK = by_weight(ids_TK, None if weights_TK is None else weights_TK.detach())
            for sink, spec in self.sinks:
                sink.routed(spec, ids_TK, weights_TK, logits_TE)
        return decision is not None


_TAPS: WeakKeyDictionary[nn.Module, Tap] = WeakKeyDictionary()
"""By router module: the taps that stand at this moment."""


@contextmanager
def tapped(sites: Sequence[Site], use: Callable[[Tap, Site], Callable[[], None]]):
    """Stand on these routers for a while.

    `use` is called with the tap on each site and returns how to take back what it did; a tap without sinks
    and programs is detached. Everything is taken back in reverse order, also when an exception passes.
    """
    with ExitStack() as stack:
        for site in sites:
            tap = _TAPS.get(site.router)
            if tap is None:
                tap = _TAPS[site.router] = Tap(site)
                tap.attach()
            stack.callback(_leave, tap)
            stack.callback(use(tap, site))
        yield


Users = tuple[list[tuple[Sink, RouterSpec]], list[Steered]]


def users(model: nn.Module) -> dict[nn.Module, Users]:
    """Who records and steers at each router of a model that is watched, for `hand_over`."""
    return {module: _TAPS[module].users for module in model.modules() if module in _TAPS}


def hand_over(model: nn.Module, to: dict[nn.Module, Users]) -> None:
    """Put back the users of an earlier moment: for pieces of work that take turns at one model."""
    for module in model.modules():
        if module in _TAPS:
            _TAPS[module].hand_over(*to.get(module, ([], [])))


def _leave(tap: Tap) -> None:
    if tap.idle:
        tap.detach()
        _TAPS.pop(tap.site.router, None)


def is_steered(site: Site) -> bool:
    """Whether a steering acts on this router at this moment."""
    tap = _TAPS.get(site.router)
    return tap is not None and tap.steered

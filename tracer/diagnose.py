"""What `moescope doctor` does: everything a trace and a steering promise, tried on a real model with a few prompts.

1. Recorded routing is what the experts module received, at every router, and recording changes no output.
2. Neutral steering changes no bit of the output, and nothing stays attached.
3. In every steerable router the most used expert, switched off, is never chosen; the least used, switched on, always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .generate.batch import pad_token_id
from .hooks.record import record_routing
from .hooks.selfcheck import RouterCheck, examined
from .models.input_device import input_device
from .models.layout import layout_of
from .prompts.prompt_set import PromptSet
from .steering.profile import Steering
from .tokens.batches import collate
from .tokens.encode import Encoder

PROMPTS = (
    "All human beings are born free and equal in dignity and rights.",
    "Choose Insert, then Table.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren; すべての人間は生まれながらにして自由である。",
)


@dataclass
class Diagnosis:
    """What was found; `passed` is the sum of it."""

    routers: list[RouterCheck] = field(default_factory=list)
    recording_is_neutral: bool = False
    neutral_steering_is_exact: bool = False
    left_behind: int = 0
    """Hooks that were still there afterwards."""
    layout: str = "one process"
    """How the model lies over processes and devices, in words."""
    disobedient: list[str] = field(default_factory=list)
    """Routers that chose an expert that was off, or left out one that was on."""

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, a line each."""
        found = [problem for router in self.routers for problem in router.problems]
        if not self.recording_is_neutral:
            found.append("recording changes the model's output")
        if not self.neutral_steering_is_exact:
            found.append("neutral steering changes the model's output")
        if self.left_behind:
            found.append(f"{self.left_behind} hooks stay attached")
        return found + self.disobedient

    @property
    def passed(self) -> bool:
        return not self.problems

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row a router, for a table."""
        return [
            {
                "layer": check.spec.layer,
                "stream": check.spec.stream,
                "experts": check.spec.num_experts,
                "top_k": check.spec.top_k,
                "scoring": check.spec.scoring,
                "tokens": check.rows,
                "executed": _said(check.executed),
                "explained": _said(check.explained),
                "steerable": "yes" if check.spec.steerable else "no",
                "router": check.spec.router,
                "note": check.spec.note,
            }
            for check in self.routers
        ]

    @property
    def lines(self) -> list[str]:
        """The verdict in words."""
        where = f"layout: {self.layout}"
        if self.problems:
            return [*(f"problem: {problem}" for problem in self.problems), where]
        unseen = sum(check.executed is None for check in self.routers)
        heard = "the records equal what the experts received"
        if unseen:  # a declared router has no experts module that could be watched
            which = "" if unseen == len(self.routers) else f" (not compared at {unseen} of them)"
            heard = heard + which if which else "what their experts received can't be compared"
        return [
            f"{len(self.routers)} routers: {heard}, recording and neutral steering change no bit of the output, and "
            "every steerable router obeys off and on.",
            where,
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed, "problems": self.problems, "layout": self.layout, "routers": self.rows,
        }  # fmt: skip


def _said(verdict: bool | None) -> str:
    return {True: "yes", False: "NO", None: "can't be compared"}[verdict]


@torch.inference_mode()
def diagnose(model: nn.Module, tokenizer: Any, prompts: Sequence[str] = PROMPTS) -> Diagnosis:
    """Try a model on a few prompts.

    Raises:
        TracerError: no routers were found, or the model is compiled.
    """
    encoded = Encoder(tokenizer).prompts(list(PromptSet.from_rows(list(prompts))))
    batch = collate(encoded, pad_id=pad_token_id(tokenizer), side="right")
    device = input_device(model)
    inputs = {"input_ids": batch.input_ids_BS.to(device), "attention_mask": batch.mask_BS.to(device)}
    found, hooks, base = Diagnosis(), _hooks(model), model(**inputs).logits
    with examined(model) as check:
        recorded = model(**inputs).logits
    found.routers = check.routers
    found.recording_is_neutral = torch.equal(recorded, base)
    steerable = [router.spec for router in check.routers if router.spec.steerable]
    layers = sorted({spec.layer for spec in steerable})
    neutral = Steering(
        [{"rule": "bias", "layers": layers, "experts": "all", "amount": 0.0}] if layers else []
    )
    with neutral.applied(model):
        found.neutral_steering_is_exact = torch.equal(model(**inputs).logits, base)
    if steerable:
        found.disobedient = _try_off_and_on(model, inputs, steerable)
    found.left_behind = _hooks(model) - hooks
    found.layout = layout_of(model).words
    return found


def _try_off_and_on(model: nn.Module, inputs: dict[str, Tensor], specs: Sequence[Any]) -> list[str]:
    with record_routing(model) as routing:
        model(**inputs)
    most, least = {}, {}
    for spec in specs:
        ids = routing.ids(spec.layer, spec.stream)
        uses = torch.bincount(ids[ids >= 0].flatten().long().cpu(), minlength=spec.num_experts)
        most[spec.key], least[spec.key] = int(uses.argmax()), int(uses.argmin())
    problems = []
    for rule, expert_of, wrong in (
        ("off", most, lambda chosen: chosen.any() and "was chosen though off"),
        ("on", least, lambda chosen: not chosen.all() and "was not chosen although it is on"),
    ):
        rules = [
            {"rule": rule, "layers": [spec.layer], "stream": spec.stream,
             "experts": [expert_of[spec.key]]}
            for spec in specs
        ]  # fmt: skip
        with Steering(rules).applied(model), record_routing(model) as steered:
            model(**inputs)
        for spec in specs:
            expert = expert_of[spec.key]
            chosen = (steered.ids(spec.layer, spec.stream) == expert).any(-1)
            if what := wrong(chosen):
                problems.append(f"layer {spec.layer}, stream {spec.stream!r}: expert {expert} {what}")
    return problems


def _hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())

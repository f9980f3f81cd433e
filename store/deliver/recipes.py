"""Bits of experts as a recipe that quantisers read, naming the modules of the model.

`gptqmodel`: keyword arguments of GPTQModel's `QuantizeConfig`, with one rule of `dynamic` for each expert whose bits
differ from the rest of the model. `llm-compressor`: a recipe with one config group for each width; what it does not
name stays as it is. Both match modules by regular expression; experts that a checkpoint stores stacked are unpacked by
these tools under the same names, `EXPERTS.NUMBER.PROJECTION`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from ..errors import DecisionRefused

RecipeForm = Literal["json", "gptqmodel", "llm-compressor"]
RECIPES: tuple[RecipeForm, ...] = ("json", "gptqmodel", "llm-compressor")
WIDTHS: dict[RecipeForm, tuple[int, ...]] = {
    "json": tuple(range(1, 17)),
    "gptqmodel": (2, 3, 4, 5, 6, 7, 8),
    "llm-compressor": (1, 2, 3, 4, 5, 6, 7, 8),
}
"""Widths that a tool takes: GPTQModel 7.7 `QuantizeConfig.bits`, compressed-tensors 0.20 `pack-quantized`."""


class ExpertBits(NamedTuple):
    """The bits of one expert."""

    layer: int
    expert: int
    bits: int
    module: str | None
    """Path of the module that holds the layer's experts."""


def recipe(form: RecipeForm, experts: Sequence[ExpertBits], group: int = 128, rest: int = 4) -> str:
    """The text of the file.

    Args:
        group: inputs that share a scale.
        rest: bits of everything that is no expert, for GPTQModel, which quantises attention too.
    Raises:
        DecisionRefused: a width that the tool does not take, or a trace that does not name the modules.
    """
    wrong = sorted({one.bits for one in experts} - set(WIDTHS[form]))
    if wrong:
        raise DecisionRefused(
            f"{form} does not take {wrong[0]} bits; it takes {', '.join(map(str, WIDTHS[form]))}: choose other --levels"
        )
    if form == "json":
        rows = [one._asdict() for one in experts]
        return json.dumps({"group_size": group, "experts": rows}, indent=1) + "\n"
    if unnamed := next((one for one in experts if not one.module), None):
        raise DecisionRefused(
            f"the trace does not name the experts' modules of layer {unnamed.layer}; use json"
        )
    return _gptqmodel(experts, group, rest) if form == "gptqmodel" else _llm_compressor(experts, group)


def _pattern(one: ExpertBits) -> str:
    return rf"{re.escape(str(one.module))}\.{one.expert}\..*"


def _gptqmodel(experts: Sequence[ExpertBits], group: int, rest: int) -> str:
    dynamic: dict[str, Any] = {
        f"^{_pattern(one)}$": {"bits": one.bits, "group_size": group} for one in experts if one.bits != rest
    }
    return json.dumps({"bits": rest, "group_size": group, "dynamic": dynamic}, indent=1) + "\n"


def _llm_compressor(experts: Sequence[ExpertBits], group: int) -> str:
    """YAML is a superset of JSON: what is written here is both."""
    by_bits: dict[int, list[str]] = defaultdict(list)
    for one in experts:
        by_bits[one.bits].append(f"re:^{_pattern(one)}$")
    groups = {
        f"experts_{bits}_bits": {
            "targets": targets,
            "weights": {
                "num_bits": bits, "type": "int", "symmetric": bits != 1, "strategy": "group", "group_size": group,
            },
        }
        for bits, targets in sorted(by_bits.items())
    }  # fmt: skip
    stage = {"quantization_modifiers": {"GPTQModifier": {"config_groups": groups, "ignore": ["lm_head"]}}}
    return json.dumps({"experts_stage": stage}, indent=1) + "\n"

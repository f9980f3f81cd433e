"""Whether a checkpoint holds every weight of its model: what it lacks, transformers fills with random numbers.

A router of random weights looks like any other, so a model with missing weights is refused unless the user allows it,
and what is missing is then kept in the model card.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...store.amount import amount
from .load_errors import ModelError

QUANTISED = re.compile(r"\.(qweight|qzeros|g_idx|scales|weight_scale\w*|scale_inv|input_scale|SCB|absmax|quant_map"
                       r"|weight_packed|weight_shape|blocks|weight_zero_point)$")  # fmt: skip
"""Tensors that only a quantised weight has beside it."""
SHOWN = 4
KEPT = 1000
"""Names of missing weights that a card keeps at most."""
ALLOW = "--allow-missing (allow_missing=True) loads it all the same and records it"


def missing_weights(name: str, info: Mapping[str, Any], *, allow: bool) -> tuple[list[str], tuple[str, ...]]:
    """Names of the weights that a load left random, in their order, and what the user must know of the checkpoint.

    A weight that is tied to another is not missing. One of another shape, or an expert that a stack of experts lacks,
    is.

    Args:
        info: what `from_pretrained(..., output_loading_info=True)` gives, and the `model`'s class.
    Raises:
        ModelError: some are missing, or left quantised, and that is not allowed.
    """
    shaped = {key: (found, wanted) for key, found, wanted in info["mismatched_keys"]}
    unused = _in_order(info["unexpected_keys"])
    scales = [key for key in unused if QUANTISED.search(key)]
    random = _in_order({*info["missing_keys"], *shaped})
    if random and not allow:
        raise ModelError(
            f"{name}: the checkpoint lacks {_amount(random)} of {info['model']}, which would be random: "
            f"{_shown(random, shaped)}{_hint(unused)}; {ALLOW}"
        )
    if scales and not allow:
        raise ModelError(
            f"{name}: the checkpoint is quantised ({_shown(scales)}), but its config.json names no quantisation: its "
            f"weights would be read without their scales; {ALLOW}"
        )
    notes = []
    if random:
        notes.append(f"{_amount(random)} of {name} are random, the checkpoint lacks them: {_shown(random)}")
    if unused:
        notes.append(f"{_amount(unused)} of {name} are not used by {info['model']}: {_shown(unused)}")
    return random[:KEPT], tuple(notes)


def refuse_adapter(path: Path) -> None:
    """Raises ModelError for a folder that holds an adapter: its changes would be left out without a word."""
    if (path / "adapter_config.json").is_file():
        raise ModelError(
            f"{path}: holds an adapter (adapter_config.json), which is not applied here; merge it into its base model "
            "first (in peft: merge_and_unload, then save_pretrained) and give the merged folder"
        )


def _amount(names: list[str]) -> str:
    return amount(len(names), "weight")


def _shown(names: list[str], shapes: Mapping[str, Any] = MappingProxyType({})) -> str:
    told = [
        f"{name} (has {_shape(shapes[name][0])}, must have {_shape(shapes[name][1])})"
        if name in shapes
        else name
        for name in names[:SHOWN]
    ]
    return ", ".join(told) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _shape(sizes: Any) -> str:
    return " x ".join(map(str, sizes))


def _hint(unused: list[str]) -> str:
    if not unused:
        return ""
    return f". It holds {_amount(unused)} that the model does not know, perhaps by another name: {_shown(unused)}"


def _in_order(names: Iterable[str]) -> list[str]:
    """Layer 10 after layer 9."""
    parts = {name: re.split(r"(\d+)", name) for name in names}
    return sorted(parts, key=lambda name: [(int(p), "") if p.isdecimal() else (-1, p) for p in parts[name]])

"""A placement as a file that serving engines read.

`sglang`: `sglang.launch_server --init-expert-location FILE.json`. It passes every key of the file to its own function
by name, so the file holds `physical_to_logical_map` and nothing else, with a row for every layer of the model.
`sglang-counts`: `logical_count` alone, from which SGLang computes a placement by its own EPLB.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ..errors import DecisionRefused

Form = Literal["sglang", "sglang-counts", "json", "csv"]
FORMS: tuple[Form, ...] = ("sglang", "sglang-counts", "json", "csv")


def check_form(form: Form, layers: Sequence[int], model_layers: int | None) -> None:
    """Refuse a file that the trace can't fill.

    Raises:
        DecisionRefused: SGLang's formats without the number of the model's layers, or with a layer beyond it.
    """
    if form.startswith("sglang") and (model_layers is None or max(layers) >= model_layers):
        raise DecisionRefused(
            f"the trace does not say how many layers the model has (or fewer than {max(layers) + 1}): SGLang's file "
            "has a row for each; write --format json"
        )


def placement_file(
    form: Form,
    layers: Sequence[int],
    physical_LR: np.ndarray,
    count_LE: np.ndarray,
    devices: int,
    *,
    model_layers: int | None,
    about: Mapping[str, Any] | None = None,
) -> str:
    """The text of the file.

    Args:
        layers: numbers of the MoE layers.
        physical_LR: (L, R) expert of each place, places of a device side by side.
        count_LE: (L, E) tokens of each expert, of the prompts that the placement was fitted on.
        model_layers: decoder layers of the model, dense ones too; needed for SGLang.
        about: for `json`: how it was made.
    Raises:
        DecisionRefused: see `check_form`.
    """
    check_form(form, layers, model_layers)
    if form == "csv":
        return _csv(layers, physical_LR, devices)
    if form == "json":
        experts = {
            "layers": list(layers),
            "devices": devices,
            "physical_to_logical_map": physical_LR.tolist(),
        }
        return json.dumps({**(about or {}), **experts, "logical_count": count_LE.tolist()}, indent=1) + "\n"
    assert model_layers is not None
    experts, places = count_LE.shape[1], physical_LR.shape[1]
    if form == "sglang":
        rows = np.tile(np.arange(places) % experts, (model_layers, 1))
        rows[list(layers)] = physical_LR
        return json.dumps({"physical_to_logical_map": rows.tolist()}) + "\n"
    counts = np.zeros((model_layers, experts), np.int64)
    counts[list(layers)] = count_LE
    return json.dumps({"logical_count": counts.tolist()}) + "\n"


def _csv(layers: Sequence[int], physical_LR: np.ndarray, devices: int) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["layer", "device", "place", "expert"])
    places = physical_LR.shape[1]
    for layer, row in zip(layers, physical_LR.tolist(), strict=True):
        for place, expert in enumerate(row):
            writer.writerow([layer, place * devices // places, place, expert])
    return out.getvalue()

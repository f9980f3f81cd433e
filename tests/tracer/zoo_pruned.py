# pyright: reportArgumentType=false
"""Whether a model of a family can be cut to fewer experts: what transformers load is compared with `keep_only`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import zoo
from tiny import character_tokenizer

from moescope.tracer import Steering, find_routers
from moescope.tracer.prune import PruneError, pruned_checkpoint

SEVERAL = "several routers a layer"
NOT_PRUNED = {
    "deepseek_v4": "chosen by a table",
    "diffusion_gemma": SEVERAL,
    "doge": "not a row or a block of rows",
    "dots3_note": SEVERAL,
    "ernie4_5_vl_moe": SEVERAL,
    "jetmoe": SEVERAL,
    "longcat_flash": "names the number of experts",
    "openai_privacy_filter": "returns no logits",
    "vitpose": "no logits to edit",
    "vitpose_backbone": "no logits to edit",
    "zaya": "names the number of experts",
}
"""Families that are refused, and what the refusal says: product keys, experts that are no modules, two routers."""
PROBE = range(5, 29)


def pruned(family: zoo.Family, model: Any) -> tuple[str, list[str]]:
    """What the table says, and failures. The model is cut."""
    if getattr(model.config, "is_encoder_decoder", False) or "Talker" in family.head:
        return "–", []
    kept = some_of_each_group(model)
    refusal = NOT_PRUNED.get(family.name)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "cut"
        try:
            wanted = None if refusal else _logits(model, keep_only(kept))
            pruned_checkpoint(model, character_tokenizer(), kept, target, probe=PROBE)
        except PruneError as error:
            said = str(error)
            return "no", [] if refusal and refusal in said and not target.exists() else [f"pruned: {said}"]
        if wanted is None:
            return "yes", ["pruned, and documented as refused"]
        found = _logits(type(model).from_pretrained(target).eval())
        close = torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
        return "yes", [] if close else ["the pruned checkpoint is not the model under keep_only"]


def keep_only(kept: dict[int, list[int]]) -> Steering:
    """As the user would write it."""
    return Steering(
        [{"rule": "keep_only", "layers": [layer], "experts": chosen} for layer, chosen in kept.items()]
    )


def some_of_each_group(model: Any) -> dict[int, list[int]]:
    """Layer → about half of its experts, other ones in each layer, as many of each group of the router."""
    groups = getattr(model.config.get_text_config(), "n_group", None) or 1
    kept = {}
    for spec in find_routers(model):
        size = spec.num_experts // groups
        left = -(-max(spec.num_experts // 2, spec.top_k or 1) // groups)
        first = spec.layer % (size - left + 1)
        kept[spec.layer] = [g * size + first + at for g in range(groups) for at in range(left)]
    return kept


def _logits(model: Any, steering: Steering | None = None) -> torch.Tensor:
    ids = torch.tensor([list(PROBE)])
    with torch.no_grad(), (steering or Steering([])).applied(model):
        return model(input_ids=ids).logits

"""A pruned or merged checkpoint that is proven before it is there.

1. The logits of the whole model under the steering rule `keep_only` (of the merged model in memory) are computed on
   probe tokens.
2. Experts are cut or merged, the model is saved beside the target, and plain transformers load it again.
3. Only where the loaded model's logits equal those of step 1 is it moved to its place.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.forward import evaluating
from ..models.input_device import input_device
from ..routers.find import find_sites
from ..steering.profile import Steering
from .cut import PruneError, check, cut
from .merge import Clusters, merged_experts

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Of logits, relative to the largest: the sums of fewer experts are added up in another order."""
_PROBE = 64


def keep_only(kept: Mapping[int, Sequence[int]]) -> Steering:
    """The steering that a pruned checkpoint equals."""
    return Steering(
        [
            {"rule": "keep_only", "layers": [layer], "experts": list(experts)}
            for layer, experts in sorted(kept.items())
        ]
    )


def pruned_checkpoint(
    model: Any,
    tokenizer: Any,
    kept: Mapping[int, Sequence[int]],
    out: str | Path,
    *,
    probe: Sequence[int],
    card: str = "",
) -> float:
    """Write a checkpoint with these experts only. The model in memory is cut, too.

    Args:
        kept: layer → experts that stay, as many in every layer.
        out: a folder that is not there yet.
        probe: token ids on which the checkpoint is compared with the whole model.
        card: text of its README.md.
    Returns:
        The largest difference of logits, relative to the largest logit.
    Raises:
        PruneError: a model that can't be cut so, or a checkpoint that does not do what `keep_only` does; nothing stays.
    """
    target = Path(out)
    if target.exists():
        raise PruneError(f"{target} is there already")
    sites = find_sites(model)
    check(model, sites, kept)
    expected = _logits(model, probe, keep_only(kept))
    cut(model, sites, kept)
    return _written(model, tokenizer, target, probe, expected, card, "what keep_only does")


def merged_checkpoint(
    model: Any,
    tokenizer: Any,
    clusters: Clusters,
    frequency: Mapping[int, Sequence[float]],
    out: str | Path,
    *,
    probe: Sequence[int],
    card: str = "",
) -> float:
    """Write a checkpoint with merged experts; the model in memory stays as it is.

    Args:
        clusters: layer → cluster of each expert, as many clusters in every layer.
        frequency: layer → how often each expert is used.
        out, probe, card: as for `pruned_checkpoint`; compared is what was loaded with what was merged in memory.
    Returns:
        As `pruned_checkpoint`.
    Raises:
        PruneError: experts that can't be merged so, or a checkpoint that loads as another model; nothing stays.
    """
    target = Path(out)
    if target.exists():
        raise PruneError(f"{target} is there already")
    with merged_experts(model, clusters, frequency):
        expected = _logits(model, probe, None)
        return _written(model, tokenizer, target, probe, expected, card, "the merged model")


def _written(
    model: Any, tokenizer: Any, target: Path, probe: Sequence[int], expected: Tensor, card: str, wanted: str
) -> float:
    """Save beside the target, load again, compare, and only then move it to its place."""
    beside = target.with_name(f".{target.name}.writing")
    try:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        (beside / "README.md").write_text(card, encoding="utf-8")
        difference = _difference(_reloaded(model, beside, probe), expected)
        if not difference <= TOLERANCE.get(model.dtype, 5e-2):
            raise PruneError(
                f"the new checkpoint does not match {wanted} (logits differ by {difference:.1%}), so it was not "
                f"written: {type(model).__name__} can't be made smaller here"
            )
        beside.rename(target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return difference


def _reloaded(model: Any, folder: Path, probe: Sequence[int]) -> Tensor:
    try:
        loaded, told = type(model).from_pretrained(folder, dtype=model.dtype, output_loading_info=True)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise PruneError(f"transformers can't load the new checkpoint: {error}") from error
    if told.get("missing_keys") or told.get("mismatched_keys"):
        raise PruneError(f"the new checkpoint lacks weights: {sorted(told['missing_keys'])[:3]}")
    return _logits(loaded.to(input_device(model)), probe, None)


@torch.inference_mode()
def _logits(model: Any, probe: Sequence[int], steering: Steering | None) -> Tensor:
    ids = torch.as_tensor(list(probe[:_PROBE]), dtype=torch.int64, device=input_device(model)).unsqueeze(0)
    with evaluating(model), nullcontext() if steering is None else steering.applied(model):
        logits = getattr(model(input_ids=ids), "logits", None)
    if logits is None:
        raise PruneError(f"{type(model).__name__} returns no logits to compare the new checkpoint by")
    return logits.float().cpu()


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))

"""How one model lies over several processes, and which of them writes.

`torchrun --nproc-per-node N -m moescope.app trace ...` starts N processes, the ranks. transformers splits the model
between them (torch.distributed, its tensor- and expert-parallel plans), and every rank runs the same batches: a
router is whole on every rank and decides the same there. Rank 0 writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from packaging.version import Version
from torch import distributed as dist
from torch import nn

from ...store.amount import amount
from ..errors import TracerError

SPLIT_SINCE = Version("5.16")
"""First transformers release that tells which part of a weight a rank holds (DTensor). Before it, the number of
parameters and the fingerprint would be those of one rank's parts."""
EXPERT_PARALLEL_SINCE = Version("5.20")
"""First transformers release that was seen to call experts with global ids under expert parallelism, without gradients.
Up to 5.18 the router itself gives ids that count from 0 on every rank, with a mark for what others hold: recorded, they
look like a trace and are wrong. 5.19 fails in `torch.inference_mode`."""


class LayoutError(TracerError):
    """A model can't be laid over processes in this way, or not with this transformers release."""


@dataclass(frozen=True)
class Layout:
    """How a model is laid over processes; one process, if nothing is said."""

    tensor: int = 1
    """Ranks that share each layer."""
    expert: int = 1
    """Ranks that share out the experts, each holding some of them whole."""
    ranks: int = 1
    rank: int = 0
    """Of this process."""
    backend: str = ""
    devices: tuple[str, ...] = ()
    """Devices that one process spreads the layers over (`device_map`), where it does."""

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    @property
    def words(self) -> str:
        if self.ranks > 1:
            how = [f"tensor parallelism over {self.tensor}"] if self.tensor > 1 else []
            how += [f"expert parallelism over {self.expert}"] if self.expert > 1 else []
            how = how or ["the model is split between them"]
            return f"{amount(self.ranks, 'process', 'processes')} ({self.backend}): {', '.join(how)}; rank 0 writes"
        if len(self.devices) > 1:
            return f"one process, layers spread over {', '.join(self.devices)}"
        return "one process"

    def card(self) -> dict[str, Any]:
        """What a manifest says of it; nothing of a model in one place."""
        if self.ranks == 1:
            return {}
        return {"parallel": {"tensor": self.tensor, "expert": self.expert}}


def split_over(ranks: int, *, experts_whole: bool = False) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` that lay a model over all ranks.

    Args:
        experts_whole: each rank holds some of the experts whole, instead of a slice of every expert.
    Raises:
        LayoutError: this transformers release can't be traced so.
    """
    _check_expert_parallel() if experts_whole else _check_split()
    from transformers.distributed.configuration_utils import DistributedConfig

    if experts_whole:
        return {"distributed_config": DistributedConfig(tp_size=ranks, ep_size=ranks)}
    return {"distributed_config": DistributedConfig(tp_size=ranks)}


def layout_of(model: nn.Module) -> Layout:
    """How a loaded model lies over processes and devices."""
    places = getattr(model, "hf_device_map", None) or {}
    devices = tuple(dict.fromkeys(str(place) for place in places.values()))
    config = getattr(getattr(model, "config", None), "distributed_config", None)
    # 5.16 writes the size only into the configuration; a model that was split in Python has it only on itself.
    tensor = int(getattr(model, "_tp_size", None) or getattr(config, "tp_size", None) or 1)
    split = tensor > 1 or int(getattr(config, "fsdp_size", None) or 1) > 1
    if not split or not dist.is_available() or not dist.is_initialized():
        return Layout(devices=devices)
    return Layout(
        tensor=tensor,
        expert=_expert_ranks(config, tensor),
        ranks=dist.get_world_size(),
        rank=dist.get_rank(),
        backend=dist.get_backend(),
    )


def _expert_ranks(config: Any, tensor: int) -> int:
    if (size := getattr(config, "ep_size", None)) is not None:
        return int(size)
    return tensor if getattr(config, "enable_expert_parallel", False) else 1


def refuse_local_ids(model: nn.Module) -> None:
    """Raises LayoutError for a model under expert parallelism whose experts are called with ids of one rank."""
    if layout_of(model).expert > 1:
        _check_expert_parallel()


def refuse_unknown_parts(layout: Layout) -> None:
    """Raises LayoutError where a model over several processes doesn't tell what of it lies where."""
    if layout.ranks > 1:
        _check_split()


def _check_split() -> None:
    _check_release(
        SPLIT_SINCE, "hides which part of a weight a process holds, so the model's fingerprint would be wrong"
    )


def _check_expert_parallel() -> None:
    _check_release(
        EXPERT_PARALLEL_SINCE,
        "can't be traced under expert parallelism: it fails, or numbers experts within one process",
    )


def _check_release(since: Version, why: str) -> None:
    import transformers

    if Version(transformers.__version__) < since:
        raise LayoutError(
            f"transformers {transformers.__version__} {why}: install transformers {since} or newer"
        )


def from_rank_0(value: Any) -> Any:
    """The value that rank 0 has, on every rank; all of them must call this at the same point."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def as_on_rank_0(values: torch.Tensor) -> bool:
    """Whether this rank has what rank 0 has; all of them must call this at the same point."""
    shape = from_rank_0((tuple(values.shape), values.dtype))
    theirs = torch.empty(shape[0], dtype=shape[1], device=values.device)
    if dist.get_rank() == 0:
        theirs = values.contiguous()
    dist.broadcast(theirs, src=0)
    return shape == (tuple(values.shape), values.dtype) and torch.equal(theirs, values)

"""Checkpoints with fewer experts, which plain transformers load."""

from .checkpoint import pruned_checkpoint
from .cut import PruneError
from .loss import mean_loss

__all__ = ["PruneError", "mean_loss", "pruned_checkpoint"]

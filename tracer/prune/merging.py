"""Which experts a merged checkpoint puts together, and what that costs beside pruning to the same number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...kernels.likeness import expert_clusters
from ...store.expert_sheet import expert_sheet
from ...store.views.deploy.scores import kept_count
from .checkpoint import merged_checkpoint
from .cut import PruneError
from .decide import Pruning, by_language, table_lines
from .loss import mean_loss
from .merge import merged_experts

Labels = dict[int, list[int]]


class Merging:
    """Clusters of experts with like outputs, as many in each layer as `pruning` keeps experts.

    Raises:
        PruneError: a trace without similarities of outputs.
    """

    def __init__(self, pruning: Pruning, *, seed: int) -> None:
        self.pruning, self._seed = pruning, seed
        self.frequency = pruning.fit_frequency()
        said = "Similarities come from the expert sheet, which saw prompts of both parts."
        self.notes = [*pruning.notes, said]
        sheet = expert_sheet(pruning.trace)
        rows = [] if sheet is None else sheet.select(["layer", "expert", "output_similarity"]).to_pylist()
        self._near: dict[int, np.ndarray] = {}
        for spec in pruning.trace.routers:
            mine = sorted((row for row in rows if row["layer"] == spec.layer), key=lambda row: row["expert"])
            if len(mine) != spec.num_experts or any(row["output_similarity"] is None for row in mine):
                raise PruneError(
                    f"the trace has no similarity of outputs in layer {spec.layer}; run: moescope weigh MODEL --trace "
                    "TRACE"
                )
            self._near[spec.layer] = np.array([row["output_similarity"] for row in mine])

    def clusters(self, model: Any) -> Labels:
        """Layer → cluster of each expert; where the router chooses among groups, clusters stay within them."""
        return {layer: self._in_groups(near, groups_of(model)) for layer, near in self._near.items()}

    def _in_groups(self, near_EE: np.ndarray, groups: int) -> list[int]:
        size, left = len(near_EE) // groups, kept_count(self.pruning.keep, len(near_EE)) // groups
        if left < 1:
            raise PruneError(
                f"the router chooses among {groups} groups of experts, so each must keep at least one"
            )
        labels = [
            expert_clusters(near_EE[at : at + size, at : at + size], left) + number * left
            for number, at in enumerate(range(0, len(near_EE), size))
        ]
        return np.concatenate(labels).tolist()

    def losses(self, model: Any, tokens: int, draws: int) -> list[dict[str, Any]]:
        """Mean loss (nats a token) on held-out prompts by language: all experts, merged, pruned to as many by the score
        and by frequency, and experts merged at random into clusters of the same sizes.

        Raises:
            PruneError: another model than the trace's, no tokens to measure on, or experts that can't be merged.
        """
        pruning = self.pruning
        pruning.check_model(model)
        prompts, languages = pruning.held_out(tokens)
        clusters, rng = self.clusters(model), np.random.default_rng(self._seed)
        sums = {
            "all experts": mean_loss(model, prompts),
            "merged": self._merged_loss(model, prompts, clusters),
            f"pruned by {pruning.score}": mean_loss(model, prompts, pruning.kept),
        }
        drawn = [shuffled(clusters, rng, groups_of(model)) for _ in range(draws)]
        random = [self._merged_loss(model, prompts, one) for one in drawn]
        return by_language(languages, sums, random)

    def _merged_loss(self, model: Any, prompts: list[list[int]], clusters: Labels) -> np.ndarray:
        with merged_experts(model, clusters, self.frequency):
            return mean_loss(model, prompts)

    def card(self, model: str, trace: str, rows: list[dict[str, Any]], clusters: Labels) -> str:
        """The README.md of the checkpoint: what was merged, by which prompts, what it costs."""
        left = max(next(iter(clusters.values()))) + 1
        lines = [
            f"# {Path(model).name}, {left} merged experts a layer",
            "",
            f"Made from `{model}` by moescope: experts with like outputs on the trace `{Path(trace).name}` are merged, "
            "weights and rows of the router as the mean by how often each is used. "
            f"{' '.join(self.notes)}",
            "",
            "Mean loss (nats a token) on held-out prompts, beside pruning to as many experts; random: experts merged "
            "at random, in clusters of the same sizes:",
            "",
            *table_lines(rows),
            "",
            "Experts that were merged, by layer:",
            "",
            *(f"- {layer}: {_told(labels)}" for layer, labels in clusters.items()),
        ]
        return "\n".join(lines) + "\n"

    def write(self, model: Any, tokenizer: Any, out: Path, card: str, clusters: Labels) -> float:
        """Write the checkpoint; see `merged_checkpoint`."""
        prompts, _ = self.pruning.held_out(1)
        return merged_checkpoint(model, tokenizer, clusters, self.frequency, out, probe=prompts[0], card=card)


def groups_of(model: Any) -> int:
    """Groups of experts among which the routers choose first; 1 where there are none."""
    return getattr(model.config.get_text_config(), "n_group", None) or 1


def shuffled(clusters: Labels, rng: np.random.Generator, groups: int = 1) -> Labels:
    """Clusters of the same sizes, of experts drawn at random within the router's groups."""
    drawn = {
        layer: [rng.permutation(part) for part in np.split(np.array(labels), groups)]
        for layer, labels in clusters.items()
    }
    return {layer: by_first(np.concatenate(parts)).tolist() for layer, parts in drawn.items()}


def by_first(label_E: np.ndarray) -> np.ndarray:
    """The same clusters, numbered by their first expert."""
    first = np.unique(label_E, return_index=True)[1]
    return np.argsort(np.argsort(first))[label_E]


def _told(labels: list[int]) -> str:
    members = [[e for e, own in enumerate(labels) if own == label] for label in range(max(labels) + 1)]
    together = ["+".join(map(str, one)) for one in members if len(one) > 1]
    return ", ".join(together) or "none"

"""Which experts a pruned checkpoint keeps, and what that costs on prompts that the choice was not made by."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ...store.amount import amount
from ...store.read.selection import Where
from ...store.read.token_filter import TokenFilter
from ...store.trace import Trace
from ...store.views.deploy.halves import halves
from ...store.views.deploy.scores import kept_count, kept_experts, scores_of
from ..models.card import weights_fingerprint
from .checkpoint import pruned_checkpoint
from .cut import PruneError
from .loss import mean_loss

Kept = dict[int, list[int]]


class Pruning:
    """One choice of experts by one trace.

    Args:
        keep: share of experts of a layer that stay.
        score: `frequency`, `gate`, `reap` or `easy_ep`.
        fit: prompts to choose by; a random half of the texts where None.
    Raises:
        PruneError: a score that the trace and its sheet do not give.
    """

    def __init__(
        self, trace: Trace, *, keep: float, score: str, fit: Where | None, tokens: TokenFilter, seed: int
    ) -> None:
        self.trace, self.keep, self.score, self._seed = trace, keep, score, seed
        self._tokens = tokens
        self._parts = halves(trace, tokens, fit, seed)
        self.notes = [self._parts.note]
        self.kept, self._frequent = self._chosen(score, tokens), self._chosen("frequency", tokens)

    def _chosen(self, score: str, tokens: TokenFilter) -> Kept:
        kept: Kept = {}
        for spec in self.trace.routers:
            found = scores_of(self.trace, spec.layer, spec.stream, tokens, self._parts.fit_P)
            if score not in found:
                found |= scores_of(self.trace, spec.layer, spec.stream, tokens)
                said = f"{score} comes from the expert sheet, which saw prompts of both parts."
                self.notes += [said] if score in found and said not in self.notes else []
            if score not in found:
                raise PruneError(
                    f"the trace has no {score}: run moescope weigh MODEL --trace TRACE, or trace with "
                    "--capture output_norm,similarity"
                )
            kept[spec.layer] = kept_experts(found[score], kept_count(self.keep, spec.num_experts)).tolist()
        return kept

    def losses(self, model: Any, tokens: int, draws: int) -> list[dict[str, Any]]:
        """Mean loss (nats a token) on held-out prompts by language: all experts, this choice, frequency, random ones.

        Raises:
            PruneError: another model than the trace's, or no tokens to measure on.
        """
        self.check_model(model)
        prompts, languages = self.held_out(tokens)
        rng = np.random.default_rng(self._seed)
        sums = {
            "all experts": mean_loss(model, prompts),
            self.score: mean_loss(model, prompts, self.kept),
            "frequency alone": mean_loss(model, prompts, self._frequent),
        }
        return by_language(
            languages, sums, [mean_loss(model, prompts, self._random(rng)) for _ in range(draws)]
        )

    def check_model(self, model: Any) -> None:
        """Raises PruneError where the trace was made with other weights."""
        recorded = self.trace.manifest.model.get("weights_fingerprint")
        if recorded is not None and recorded != weights_fingerprint(model):
            raise PruneError(
                f"{self.trace.url} was made with a model whose weights differ from those of this one"
            )

    def fit_frequency(self) -> dict[int, list[float]]:
        """Layer → how often each expert is used on the prompts of the fit."""
        return {
            spec.layer: scores_of(self.trace, spec.layer, spec.stream, self._tokens, self._parts.fit_P)[
                "frequency"
            ].tolist()
            for spec in self.trace.routers
        }

    def _random(self, rng: np.random.Generator) -> Kept:
        sizes = {spec.layer: spec.num_experts for spec in self.trace.routers}
        return {
            layer: sorted(rng.permutation(sizes[layer])[: len(one)].tolist())
            for layer, one in self.kept.items()
        }

    def held_out(self, tokens: int) -> tuple[list[list[int]], list[str]]:
        """Token ids and languages of held-out prompts, as many tokens as asked for, from every language in turn."""
        table = self.trace.prompts().select(["prompt_id", "language"]).to_pylist()
        order = np.random.default_rng(self._seed).permutation(np.flatnonzero(self._parts.report_P)).tolist()
        by_language: dict[str, list[int]] = defaultdict(list)
        for at in order:
            by_language[table[at]["language"] or "none"].append(at)
        prompts, languages, total = [], [], 0
        for turn in range(max(map(len, by_language.values()), default=0)):
            for language, rows in by_language.items():
                if turn < len(rows) and total < tokens:
                    column = self.trace.tokens(table[rows[turn]]["prompt_id"])["token_id"]
                    if column.null_count == 0 and len(column) > 1:
                        prompts.append(column.to_pylist())
                        languages.append(language)
                        total += len(column)
        if not prompts:
            raise PruneError(
                f"{self.trace.url} holds no held-out tokens with ids: the loss can't be measured"
            )
        return prompts, languages

    def card(self, model: str, trace: str, rows: list[dict[str, Any]]) -> str:
        """The README.md of the checkpoint: what was cut, by which prompts, what it costs."""
        left = len(next(iter(self.kept.values())))
        lines = [
            f"# {Path(model).name}, {amount(left, 'expert')} a layer",
            "",
            f"Made from `{model}` by moescope: {self.keep:.0%} of the experts of each layer stay, those with the "
            f"largest {self.score} on the trace `{Path(trace).name}`. {' '.join(self.notes)}",
            "",
            "Mean loss (nats a token) on held-out prompts, beside other choices of as many experts:",
            "",
            *table_lines(rows),
            "",
            "Experts that stay, by layer:",
            "",
            *(f"- {layer}: {', '.join(map(str, experts))}" for layer, experts in self.kept.items()),
        ]
        return "\n".join(lines) + "\n"

    def write(self, model: Any, tokenizer: Any, out: Path, card: str) -> float:
        """Write the checkpoint; see `pruned_checkpoint`."""
        prompts, _ = self.held_out(1)
        return pruned_checkpoint(model, tokenizer, self.kept, out, probe=prompts[0], card=card)


def by_language(
    languages: list[str], sums: dict[str, np.ndarray], random: list[np.ndarray]
) -> list[dict[str, Any]]:
    """A row for all prompts and one a language: tokens, mean loss by name; mean, least and most of random choices.

    Args:
        sums: name → (P, 2) summed loss and tokens, as `mean_loss` gives them.
        random: the same of each random choice.
    """
    rows = []
    for language in ["all", *sorted(set(languages) - {"all"})]:
        at = np.array([language in ("all", own) for own in languages])
        one = [_mean(part[at]) for part in random]
        row: dict[str, Any] = {
            "language": language,
            "tokens": int(next(iter(sums.values()))[at, 1].sum()),
        }
        row |= {name: _mean(part[at]) for name, part in sums.items()}
        rows.append(row | {"random": float(np.mean(one)), "random least": min(one), "random most": max(one)})
    return rows


def table_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as a Markdown table."""
    head = list(rows[0])
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(_cell(row[name]) for name in head) + " |" for row in rows),
    ]


def _mean(sums_P2: np.ndarray) -> float:
    return float(sums_P2[:, 0].sum() / max(1, sums_P2[:, 1].sum()))


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)

"""What smaller models cost on the sample: the second half of the study of decisions (`python docs/studies/deploy.py`).

Texts of the sample's own register in six languages, each text in all of them. Half of the texts choose (which experts
stay, what is merged, how many bits), the other half is reported; intervals resample texts, so translations stay
together.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from moescope.kernels.likeness import expert_clusters
from moescope.store import Trace, open_trace
from moescope.store.deliver.recipes import ExpertBits
from moescope.store.expert_sheet import expert_sheet
from moescope.store.library import sample_dir
from moescope.store.read.token_filter import ALL_TOKENS
from moescope.store.views.deploy.bits import allocate, bit_costs
from moescope.store.views.deploy.scores import kept_experts, scores_of
from moescope.store.views.options import Split
from moescope.tracer import PromptSet, load_model, trace_prompts
from moescope.tracer.prune.loss import mean_loss
from moescope.tracer.prune.merge import merged_experts
from moescope.tracer.prune.merging import shuffled
from moescope.tracer.routers.find import find_sites
from moescope.tracer.weigh import weigh
from moescope.tracer.weigh.matrices import matrices_of, rounded_experts

LANGUAGES = ("en", "de", "fr", "ru", "zh", "ja")
TEXTS, DRAWS, RESAMPLES, SEED, BATCH = 60, 5, 2000, 0, 16
KEEPS, CHOOSERS, WIDTHS, BUDGETS = (0.75, 0.5), ("en", "ru", "ja"), (2, 3, 4), (2.5, 3.0)
Kept = dict[int, list[int]]


class Held:
    """The held-out texts, and how a changed model compares with the whole one on them."""

    def __init__(self, model: Any, trace: Trace, text_P: np.ndarray) -> None:
        self.model = model
        rows = trace.prompts().select(["prompt_id", "language"]).to_pylist()
        at = np.flatnonzero(text_P > text_P.max() // 2)
        self.text, self.language = text_P[at], np.array([rows[i]["language"] for i in at])
        self.ids = [trace.tokens(rows[i]["prompt_id"])["token_id"].to_pylist() for i in at]
        self.whole = mean_loss(model, self.ids, batch=BATCH)

    def cost(self, changed: Callable[[], np.ndarray]) -> np.ndarray:
        """(P, 2) further loss and tokens of each prompt."""
        now = changed()
        return np.stack([now[:, 0] - self.whole[:, 0], now[:, 1]], 1)

    def kept(self, kept: Kept) -> np.ndarray:
        return self.cost(lambda: mean_loss(self.model, self.ids, kept, batch=BATCH))

    def told(self, cost: np.ndarray, language: str | None = None) -> str:
        """Mean further loss, nats a token, with a 95 % interval over texts."""
        mine = np.ones(len(self.text), bool) if language is None else self.language == language
        texts = np.unique(self.text)
        sums = np.array([cost[mine & (self.text == text)].sum(0) for text in texts])
        drawn = np.random.default_rng(1).integers(0, len(texts), (RESAMPLES, len(texts)))
        totals = sums[drawn].sum(1)
        low, high = np.quantile(totals[:, 0] / totals[:, 1], [0.025, 0.975])
        return f"{mean(cost[mine]):+.3f} ({low:+.3f} to {high:+.3f})"


def mean(cost: np.ndarray) -> float:
    return float(cost[:, 0].sum() / cost[:, 1].sum())


def traced(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    languages: Sequence[str] = LANGUAGES,
    texts: int = TEXTS,
    sheet: bool = True,
) -> tuple[Trace, np.ndarray]:
    """A trace of the texts with the norms of outputs, weighed where `sheet`, and the number of each prompt's text."""
    with (sample_dir() / "help_parallel.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["language"] in languages]
    known = sorted({row["parallel_id"] for row in rows})
    order = np.random.default_rng(SEED).permutation(len(known))[:texts]
    drawn = {known[i]: n for n, i in enumerate(order)}
    rows = [row for row in rows if row["parallel_id"] in drawn]
    capture = ("ids", "weights", "output_norm", "similarity")
    trace_prompts(model, tokenizer, PromptSet.from_rows(rows), folder, capture=capture)
    trace = open_trace(folder)
    number = {row["id"]: drawn[row["parallel_id"]] for row in rows}
    text_P = np.array([number[name] for name in trace.prompts()["prompt_id"].to_pylist()])
    if not sheet:
        return trace, text_P
    weigh(
        model,
        trace,
        tokens=1024,
        probe=64,
        what=("norms", "outliers", "outputs", "quantisation", "similarity"),
    )
    return open_trace(folder), text_P


def scores(trace: Trace, fit_P: np.ndarray) -> dict[str, dict[int, np.ndarray]]:
    """Score → layer → (E,): four that the trace gives on some prompts, and the norm of the weights."""
    found: dict[str, dict[int, np.ndarray]] = {}
    sheet = expert_sheet(trace)
    assert sheet is not None
    norms: dict[int, list[float]] = {}
    for row in sheet.to_pylist():
        norms.setdefault(row["layer"], []).append(float(np.linalg.norm(row["norms"])))
    for spec in trace.routers:
        for name, values in scores_of(trace, spec.layer, spec.stream, ALL_TOKENS, fit_P).items():
            found.setdefault(name, {})[spec.layer] = values
    return found | {"weight norm": {layer: np.array(values) for layer, values in norms.items()}}


def choice(score: dict[int, np.ndarray], keep: float) -> Kept:
    return {
        layer: kept_experts(values, round(keep * len(values))).tolist() for layer, values in score.items()
    }


def random_kept(trace: Trace, keep: float, rng: np.random.Generator) -> Kept:
    return {
        s.layer: sorted(rng.permutation(s.num_experts)[: round(keep * s.num_experts)].tolist())
        for s in trace.routers
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |", flush=True)
    print(flush=True)


def by_language(held: Held, name: str, cost: np.ndarray) -> list[str]:
    return [name, held.told(cost), *(held.told(cost, language).split(" ")[0] for language in LANGUAGES)]


def range_row(held: Held, name: str, costs: list[np.ndarray]) -> list[str]:
    """Mean of random draws and the least and largest of them."""
    means = [mean(cost) for cost in costs]
    whole = f"{np.mean(means):+.3f} ({min(means):+.3f} to {max(means):+.3f}, least and largest)"
    own = [f"{np.mean([mean(c[held.language == language]) for c in costs]):+.3f}" for language in LANGUAGES]
    return [name, whole, *own]


def pruning(held: Held, trace: Trace, fit_P: np.ndarray) -> None:
    found = scores(trace, fit_P)
    for keep in KEEPS:
        print(f"### {keep:.0%} of the experts stay\n")
        rows = [by_language(held, name, held.kept(choice(score, keep))) for name, score in found.items()]
        rng = np.random.default_rng(SEED)
        draws = [held.kept(random_kept(trace, keep, rng)) for _ in range(DRAWS)]
        table(
            ["chosen by", "all languages", *LANGUAGES],
            [*rows, range_row(held, f"random, {DRAWS} draws", draws)],
        )


def calibration(held: Held, trace: Trace, fit_P: np.ndarray) -> None:
    """Does the best score depend on the language of the prompts that choose?"""
    print("### Half of the experts stay, chosen by the texts of one language\n")
    language_P = np.array(trace.prompts()["language"].to_pylist())
    rows = []
    for language in CHOOSERS:
        for name, score in scores(trace, fit_P & (language_P == language)).items():
            if name != "weight norm":
                cost = held.kept(choice(score, 0.5))
                rows.append([language, *by_language(held, name, cost)])
    table(["chosen on", "by", "all languages", *LANGUAGES], rows)


def merging(held: Held, trace: Trace, fit_P: np.ndarray) -> None:
    print("### Merged to as many experts\n")
    sheet = expert_sheet(trace)
    assert sheet is not None
    near: dict[int, list[list[float]]] = {}
    for row in sheet.to_pylist():
        near.setdefault(row["layer"], []).append(row["output_similarity"])
    frequency = {layer: values.tolist() for layer, values in scores(trace, fit_P)["frequency"].items()}

    def cost(clusters: dict[int, list[int]]) -> np.ndarray:
        with merged_experts(held.model, clusters, frequency):
            return held.cost(lambda: mean_loss(held.model, held.ids, batch=BATCH))

    rows = []
    for keep in KEEPS:
        clusters = {
            layer: expert_clusters(np.array(values), round(keep * len(values))).tolist()
            for layer, values in near.items()
        }
        rows.append(by_language(held, f"like outputs, {keep:.0%}", cost(clusters)))
        rng = np.random.default_rng(SEED)
        draws = [cost(shuffled(clusters, rng)) for _ in range(DRAWS)]
        rows.append(range_row(held, f"at random, {keep:.0%}, {DRAWS} draws", draws))
    table(["merged", "all languages", *LANGUAGES], rows)


@contextmanager
def rounded_model(model: Any, bits: dict[int, list[int]]) -> Iterator[None]:
    """The model with its experts rounded to these bits (layer → expert) while the context is open."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        for site in find_sites(model):
            assert site.experts is not None
            matrices = matrices_of(site.experts, site.spec.num_experts, str(site.spec.experts))
            stack.enter_context(rounded_experts(matrices, bits[site.spec.layer], 128))
        yield


def bits(held: Held, trace: Trace, fit_P: np.ndarray) -> None:
    print("### Experts really rounded (to nearest, groups of 128)\n")
    sizes = {spec.layer: spec.num_experts for spec in trace.routers}
    named = np.array(trace.prompts()["parallel_id"].to_pylist())
    texts = sorted(set(named[fit_P].tolist()))

    def cost(allocated: dict[int, list[int]]) -> np.ndarray:
        with rounded_model(held.model, allocated):
            return held.cost(lambda: mean_loss(held.model, held.ids, batch=BATCH))

    rows = [
        by_language(held, f"{width} bits for all", cost({layer: [width] * n for layer, n in sizes.items()}))
        for width in WIDTHS
    ]
    for budget in BUDGETS:
        allocated: dict[int, list[int]] = {layer: [0] * n for layer, n in sizes.items()}
        for one in allocation(trace, budget, texts):
            allocated[one.layer][one.expert] = one.bits
        spent = np.mean([width for one in allocated.values() for width in one])
        rows.append(
            by_language(held, f"program, {budget:g} bits on average (spent {spent:.2f})", cost(allocated))
        )
        rng, flat = np.random.default_rng(SEED), [width for one in allocated.values() for width in one]
        draws = []
        for _ in range(DRAWS):
            drawn = iter(rng.permutation(flat).tolist())
            draws.append(cost({layer: [next(drawn) for _ in range(n)] for layer, n in sizes.items()}))
        rows.append(range_row(held, f"the same bits dealt at random, {DRAWS} draws", draws))
    table(["experts", "all languages", *LANGUAGES], rows)


def allocation(trace: Trace, budget: float, texts: list[str]) -> list[ExpertBits]:
    """Bits of each expert by the program over the whole model, fitted on some texts."""
    fit = {"parallel_id": texts}
    costs = bit_costs(trace, "2,3,4", split=Split(fit_where=fit, seed=SEED))
    return costs.allocation(allocate(costs, "mc-moe", budget))


def main() -> None:
    loaded = load_model(str(sample_dir() / "model"))
    with TemporaryDirectory() as folder:
        trace, text_P = traced(loaded.model, loaded.tokenizer, Path(folder) / "trace")
        held, fit_P = Held(loaded.model, trace, text_P), text_P < TEXTS // 2
        print(
            f"{TEXTS} texts in {len(LANGUAGES)} languages; held out: {held.whole[:, 1].sum():,.0f} tokens, "
            f"loss {mean(held.whole):.3f} nats a token"
        )
        table(["language", "loss"], [[n, f"{mean(held.whole[held.language == n]):.3f}"] for n in LANGUAGES])
        pruning(held, trace, fit_P)
        calibration(held, trace, fit_P)
        merging(held, trace, fit_P)
        bits(held, trace, fit_P)


if __name__ == "__main__":
    main()

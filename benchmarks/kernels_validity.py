"""Do the intervals cover, do random labels stay silent, are planted experts found? The figures of docs/methods.

    python benchmarks/kernels_validity.py [--runs 200]

Synthetic routing with known truth: each prompt draws its own router bias (prompts differ, tokens of one prompt are
alike), each token chooses its top k of E. Prints tables in Markdown.
"""

import argparse
from collections.abc import Callable

import numpy as np

from moescope.kernels.alignment import bootstrap_interval, correlation
from moescope.kernels.resonance import prompt_maps, resonance

LAYERS, EXPERTS, SLOTS = 4, 32, 4


def routed_prompts(
    rng: np.random.Generator, prompts: int, shift_PLE: np.ndarray | float = 0.0, bias: float = 0.5
) -> np.ndarray:
    """(P, L, E) share of a prompt's 20 to 60 tokens that choose an expert; `shift` moves its logits."""
    own = rng.normal(0, bias, (prompts, LAYERS, EXPERTS)) + shift_PLE
    tokens = rng.integers(20, 61, prompts)
    counts = np.zeros(own.shape)
    for prompt in range(prompts):
        logits = own[prompt] + rng.gumbel(size=(tokens[prompt], LAYERS, EXPERTS))
        chosen = np.argpartition(-logits, SLOTS - 1, axis=-1)[..., :SLOTS]
        for layer in range(LAYERS):
            counts[prompt, layer] = np.bincount(chosen[:, layer].ravel(), minlength=EXPERTS)
    return prompt_maps(counts, tokens)


def table(title: str, header: list[str], rows: list[list[object]]) -> None:
    print(f"\n{title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(f"{x:.3f}" if isinstance(x, float) else str(x) for x in row) + " |")


def mean_coverage(
    units: int, draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray], truth: float
) -> float:
    """Share of 4,000 intervals of a mean that hold it; one column is one repetition."""
    interval = bootstrap_interval(draw(np.random.default_rng(units), (units, 4000)), resamples=1000)
    return float(np.mean((interval.low <= truth) & (interval.high >= truth)))


def correlation_coverage(languages: int, rho: float, method: str, runs: int) -> tuple[float, float]:
    """Coverage of the truth (of ranks: 6/pi asin(rho/2)), and mean width."""
    truth = rho if method == "pearson" else 6 / np.pi * np.arcsin(rho / 2)
    rng = np.random.default_rng(languages)
    hits, widths = 0, []
    for _ in range(runs):
        x, noise = rng.normal(size=(2, languages))
        found = correlation(x, rho * x + np.sqrt(1 - rho**2) * noise, method, resamples=500)  # pyright: ignore[reportArgumentType]
        hits += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    return hits / runs, float(np.mean(widths))


def silence(prompts: int, paired: bool, runs: int) -> list[object]:
    """Share of runs with random labels that call anything, by each of the three criteria."""
    rng = np.random.default_rng(prompts)
    calls = np.zeros(3)
    for run in range(runs):
        topic = rng.normal(0, 1, (prompts // 2, LAYERS, EXPERTS)) if paired else None
        shift = np.concatenate([topic, topic]) if topic is not None else 0.0
        maps = routed_prompts(rng, prompts, shift)
        half = prompts // 2
        swap = rng.random(half) < 0.5
        labels = np.concatenate([swap, ~swap]) if paired else rng.permutation(np.arange(prompts) < half)
        pairs = np.arange(prompts) % half if paired else None
        plain = resonance(maps, labels, True, pairs=pairs, seed=run, stability=0)
        refined = resonance(maps, labels, True, pairs=pairs, seed=run, stability=0, refine=True)
        calls += [(r < 0.05).any() for r in (plain.q_value, refined.q_value, plain.p_family)]
    return [f"{prompts // 2} + {prompts // 2}", "yes" if paired else "no", *(float(c / runs) for c in calls)]


def power(per_group: int, planted: int, shift: float, runs: int) -> list[object]:
    """Share of planted experts found by each criterion, share of findings that are false, stability."""
    rng = np.random.default_rng(per_group + planted)
    found, false, stability = np.zeros(3), [], []
    for run in range(runs):
        cells = rng.choice(LAYERS * EXPERTS, planted, replace=False)
        truth = np.isin(np.arange(LAYERS * EXPERTS), cells).reshape(LAYERS, EXPERTS)
        shifts = np.zeros((2 * per_group, LAYERS, EXPERTS))
        shifts[:per_group] = shift * truth
        labels = np.arange(2 * per_group) < per_group
        maps = routed_prompts(rng, 2 * per_group, shifts)
        plain = resonance(maps, labels, True, seed=run, top_n=planted)
        refined = resonance(maps, labels, True, seed=run, stability=0, refine=True)
        called = [plain.q_value < 0.05, refined.q_value < 0.05, plain.p_family < 0.05]
        found += [c[truth].mean() for c in called]
        false.append(called[1][~truth].sum() / max(called[1].sum(), 1))
        stability.append(plain.stability[truth].mean())
    shares = [float(f / runs) for f in found]
    return [
        f"{per_group} + {per_group}",
        planted,
        shift,
        *shares,
        float(np.mean(false)),
        float(np.mean(stability)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    rows: list[list[object]] = [
        [
            units,
            mean_coverage(units, lambda rng, size: rng.beta(4, 8, size), 1 / 3),
            mean_coverage(units, lambda rng, size: rng.beta(1, 9, size), 0.1),
        ]
        for units in (5, 10, 20, 50, 100, 500)
    ]
    table("bootstrap_interval: coverage of 95 % intervals", ["units", "mild skew", "strong skew"], rows)
    rows = [
        [
            languages,
            rho,
            *correlation_coverage(languages, rho, "pearson", runs),
            *correlation_coverage(languages, rho, "spearman", runs),
        ]
        for languages in (5, 10, 20, 40)
        for rho in (0.0, -0.8)
    ]
    header = ["languages", "true r", "Pearson", "width", "Spearman", "width"]
    table("correlation: coverage of 95 % intervals, normal scores", header, rows)
    rows = [silence(prompts, paired, runs) for prompts in (12, 20, 60) for paired in (False, True)]
    header = ["prompts", "paired", "q < 0.05", "refined q < 0.05", "family p < 0.05"]
    table("resonance: runs with random labels in which any expert is called", header, rows)
    rows = [
        power(n, planted, shift, runs // 4)
        for n in (10, 20, 40)
        for planted in (1, 8)
        for shift in (0.5, 1.0)
    ]
    header = [
        "prompts",
        "planted",
        "logit shift",
        "q",
        "refined q",
        "family p",
        "false share (refined)",
        "stability",
    ]
    table("resonance: share of planted experts found", header, rows)


if __name__ == "__main__":
    main()

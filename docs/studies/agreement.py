"""The numbers of docs/studies/agreement.md: `python docs/studies/agreement.py [--prompts 96] [--keep FOLDER]`.

1. The bundled model is traced in float32, one prompt a batch, and again with one thing changed each time.
2. Every trace is compared with the first; where the model or its steering changed, its routing is replayed in the
   first model, to see how much of the difference in KL the choice of experts carries.
3. Text noise: bits of letters are flipped, each such that one token changes and all others stay where they are.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from moescope.app.sentences.agreement import within
from moescope.kernels.statistics.bootstrap import bootstrap_interval
from moescope.store import Trace, open_trace, sample_dir
from moescope.store.compare import pair_traces, view
from moescope.tracer import PromptSet, Steering, load_model, trace_prompts
from moescope.tracer.evaluate.attribute import attribute_routing

LANGUAGES = ("en", "de", "ja")
BITS = (0, 1, 2, 4, 8)
"""Flipped bits a prompt."""
STEERED = Steering([{"rule": "off", "layers": [5], "experts": [25]}])
"""The expert that responds most to Japanese (docs/studies/resonance.md)."""


def rounded(bits: int) -> Callable[[Any], None]:
    """Rounds every expert's weights to so many bits, one scale a row."""

    def change(model: Any) -> None:
        steps = 2 ** (bits - 1) - 1
        for name, weight in model.named_parameters():
            if ".experts." in name:
                scale = weight.abs().amax(-1, keepdim=True) / steps
                weight.copy_(torch.where(scale == 0, weight, (weight / scale).round() * scale))

    return change


def perturbed(share: float) -> Callable[[Any], None]:
    """Adds noise to every router's weights: so much of their own standard deviation."""

    def change(model: Any) -> None:
        noise = torch.Generator().manual_seed(0)
        for name, weight in model.named_parameters():
            if name.endswith(("gate.weight", "router.weight")):
                weight.add_(torch.randn(weight.shape, generator=noise), alpha=share * float(weight.std()))

    return change


VARIANTS: dict[str, tuple[Callable[[Any], None] | None, str, int, Steering | None]] = {
    "the same again": (None, "float32", 1, None),
    "16 prompts a batch": (None, "float32", 16, None),
    "bfloat16": (None, "bfloat16", 1, None),
    "experts rounded to 8 bits": (rounded(8), "float32", 1, None),
    "experts rounded to 4 bits": (rounded(4), "float32", 1, None),
    "routers + 2 % noise": (perturbed(0.02), "float32", 1, None),
    "routers + 10 % noise": (perturbed(0.1), "float32", 1, None),
    "layer 5, expert 25 off": (None, "float32", 1, STEERED),
}
"""Name → what is done to the model, its precision, prompts a batch, steering."""


def some_prompts(count: int) -> PromptSet:
    prompts = PromptSet.from_file(sample_dir() / "udhr.csv")
    each = count // len(LANGUAGES)
    chosen = [prompt for code in LANGUAGES for prompt in [p for p in prompts if p.language == code][:each]]
    return PromptSet(tuple(chosen), prompts.name)


def changed(model: Any, change: Callable[[Any], None] | None, dtype: str) -> Any:
    other = copy.deepcopy(model)
    if change is not None:
        with torch.no_grad():
            change(other)
    return other.to(getattr(torch, dtype))


def variants(model: Any, tokenizer: Any, prompts: PromptSet, folder: Path) -> None:
    """A row of the table for each variant."""
    base = traced(model, tokenizer, prompts, folder / "base", batch_size=1)
    print(
        "| changed | decisions flipped | tokens with any flip | KL, nats | carried by routing |\n|---|---|---|---|---|"
    )
    for number, (name, (change, dtype, batch_size, steering)) in enumerate(VARIANTS.items()):
        other = model if change is None and dtype == "float32" else changed(model, change, dtype)
        trace = traced(
            other, tokenizer, prompts, folder / str(number), batch_size=batch_size, steering=steering
        )
        overall = view(pair_traces(base, trace), "agreement-overall").to_pylist()[0]
        carried = ("–", "–")
        if other is not model or steering is not None:
            found = attribute_routing(model, other, tokenizer, trace, prompts, steering_b=steering)
            rows = {row["which"]: row for row in found.table().to_pylist()}
            carried = (f"{rows['B']['kl']:.2g}", within(rows["A with B's routing"], "share"))
        flips = (within(overall, "flip_rate"), within(overall, "tokens_flipped"))
        print(f"| {name} | {' | '.join((*flips, *carried))} |", flush=True)


def traced(model: Any, tokenizer: Any, prompts: PromptSet, out: Path, **settings: Any) -> Trace:
    trace_prompts(model, tokenizer, prompts, out, weight_type="float32", **settings)
    return open_trace(out)


def noisy(prompts: PromptSet, tokenizer: Any) -> list[PromptSet]:
    """The English prompts with 0, 1, 2, 4, ... flipped bits, each on top of those before; those with room for all."""
    levels: list[list[dict[str, str]]] = [[] for _ in BITS]
    for number, prompt in enumerate(p for p in prompts if p.language == "en"):
        texts = with_flipped_bits(prompt.text, tokenizer, np.random.default_rng(number))
        for level, text in zip(levels, texts or (), strict=bool(texts)):
            level.append({"id": prompt.id, "parallel_id": prompt.id, "text": text})
    return [PromptSet.from_rows(rows) for rows in levels]


def with_flipped_bits(text: str, tokenizer: Any, random: np.random.Generator) -> list[str] | None:
    """A text with so many letters' lowest bits flipped, for each of `BITS`; None where there is no room for the most.

    Only flips are taken that change one token each, and leave all others and their positions as they are.
    """
    letters = [place for place, sign in enumerate(text) if sign.isascii() and sign.isalpha()]
    ids, changed, found = tokenizer(text)["input_ids"], set[int](), [text]
    for place in random.permutation(letters):
        flipped = chr(ord(text[place]) ^ 1)
        tried = text[:place] + flipped + text[place + 1 :]
        new = tokenizer(tried)["input_ids"]
        moved = {at for at, (old, other) in enumerate(zip(ids, new, strict=False)) if old != other}
        if not flipped.isalpha() or len(new) != len(ids) or len(moved) != 1 or moved & changed:
            continue
        text, ids, changed = tried, new, changed | moved
        if len(changed) in BITS:
            found.append(text)
        if len(changed) == BITS[-1]:
            return found
    return None


def text_noise(model: Any, tokenizer: Any, prompts: PromptSet, folder: Path) -> None:
    """Flip rate by flipped bits at every position, and at the tokens that are the same; its rise from row to row."""
    clean, before = None, None
    heads = [
        "bits flipped",
        "prompts",
        "decisions flipped",
        "rise, points",
        "at unchanged tokens",
        "rise, points",
    ]
    print(f"\n| {' | '.join(heads)} |")
    print("|---|---|---|---|---|---|")
    for bits, rows in zip(BITS, noisy(prompts, tokenizer), strict=True):
        trace = traced(model, tokenizer, rows, folder / f"bits-{bits}", batch_size=1)
        clean = clean or trace
        both = [pair_traces(clean, trace, pair_by="parallel_id"), pair_traces(clean, trace, align="realign")]
        tables = [view(pairs, "agreement-prompts") for pairs in both]
        cells = [within(view(pairs, "agreement-overall").to_pylist()[0], "flip_rate") for pairs in both]
        rises = (
            [rise(old, new) for old, new in zip(before or tables, tables, strict=True)]
            if before
            else ["–", "–"]
        )
        before = tables
        print(f"| {bits} | {len(rows)} | {cells[0]} | {rises[0]} | {cells[1]} | {rises[1]} |", flush=True)


def rise(before: pa.Table, after: pa.Table) -> str:
    """How much the flip rate rose, with its interval over prompts (each with both its rates), in percentage points."""
    sides = []
    for table in (before, after):
        rows = sorted(
            table.select(["prompt_id", "flips", "decisions"]).to_pylist(), key=lambda row: row["prompt_id"]
        )
        sides += [np.array([row[name] for row in rows], float) for name in ("flips", "decisions")]
    old, of_old, new, of_new = sides

    def difference(chosen: np.ndarray) -> float:
        return new[chosen].sum() / of_new[chosen].sum() - old[chosen].sum() / of_old[chosen].sum()

    found = bootstrap_interval(np.arange(len(old)), difference)
    return f"{100 * found.point:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=96, help="of the English, German and Japanese prompts")
    parser.add_argument(
        "--keep", type=Path, help="keep the traces in this folder, to look at on the Compare page"
    )
    asked = parser.parse_args()
    loaded = load_model(str(sample_dir() / "model"), device="cpu", dtype="float32")
    prompts = some_prompts(asked.prompts)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        variants(loaded.model, loaded.tokenizer, prompts, folder)
        every = PromptSet.from_file(sample_dir() / "udhr.csv")
        text_noise(loaded.model, loaded.tokenizer, every, folder)


if __name__ == "__main__":
    main()

"""The numbers of docs/studies/agreement.md: `python docs/studies/agreement.py [--prompts 96] [--keep FOLDER]`.

1. The bundled model is traced in float32, one prompt a batch, and again with one thing changed each time.
2. Every trace is compared with the first; where the model or its steering changed, its routing is replayed in the
   first model, to see how much of the difference in KL the choice of experts carries.
3. Text noise: bits of letters are flipped, and prompts with as many tokens as before are compared by position.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moescope.app.sentences.agreement import within
from moescope.app.text import words
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


def noisy(prompts: PromptSet, bits: int) -> Iterator[dict[str, str]]:
    """The English prompts with the lowest bit of so many letters flipped (a becomes b's neighbour: always a sign)."""
    for number, prompt in enumerate(p for p in prompts if p.language == "en"):
        letters = [place for place, sign in enumerate(prompt.text) if sign.isascii() and sign.isalpha()]
        chosen = np.random.default_rng(number).permutation(letters)[:bits]
        text = [chr(ord(sign) ^ 1) if place in chosen else sign for place, sign in enumerate(prompt.text)]
        yield {"id": prompt.id, "parallel_id": prompt.id, "text": "".join(text)}


def text_noise(model: Any, tokenizer: Any, prompts: PromptSet, folder: Path) -> None:
    """Flip rate by flipped bits, where positions correspond; distance of loads for all prompts."""
    clean = None
    print(
        "\n| bits flipped | prompts with as many tokens | decisions flipped | loads apart | of unrelated prompts |"
    )
    print("|---|---|---|---|---|")
    for bits in BITS:
        rows = PromptSet.from_rows(list(noisy(prompts, bits)))
        trace = traced(model, tokenizer, rows, folder / f"bits-{bits}", batch_size=1)
        clean = clean or trace
        pairs = pair_traces(clean, trace, pair_by="parallel_id")
        found = view(pairs, "agreement-overall").to_pylist()
        last = view(pairs, "agreement-sequences").to_pylist()[-1]
        rate, kept = (within(found[0], "flip_rate"), found[0]["prompts"]) if found else ("–", 0)
        apart = f"{last['distance']:.3f} | {last['others']:.3f}"
        print(f"| {bits} | {words.count(kept)} of {len(rows)} | {rate} | {apart} |", flush=True)


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
        text_noise(loaded.model, loaded.tokenizer, prompts, folder)


if __name__ == "__main__":
    main()

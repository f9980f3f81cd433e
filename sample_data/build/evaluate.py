"""Measures the sample model on held-out text and writes sample_data/evaluation.json.

1. Bits per byte of held-out segments, each scored alone after <|endoftext|>, by language; beside it xz -9 on
   the same texts joined by newlines, and the model as it was before training.
2. Share of the tokens of the training mix that each expert of a layer receives.
3. Routing divergence from English by layer, over held-out parallel segments.
4. For each language the ten experts (of all layers) that it uses most in excess of the other languages,
   found on training text; how many bits per byte held-out text of every language costs more without them.
   The same for ten random experts, mean of several draws.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from measures import (
    Texts,
    bits_per_byte,
    divergence_from_english,
    most_specific,
    share_by_language,
    xz_bits_per_byte,
)
from recipe import SAMPLE_DATA, Recipe, arguments, recipe_of
from scoring import score, switched_off
from stream import token_stream
from train import new_model
from transformers import AutoModelForCausalLM

RANDOM_DRAWS = 5


def removal_costs(model, shares: dict[str, np.ndarray], texts: Texts, removed: int, seed: int) -> dict:
    """Extra bits per byte of each language without some language's experts, and without random ones."""
    base = bits_per_byte(score(model, texts.ids, what="whole").nats, texts)
    draw = np.random.default_rng(seed)
    layers, experts = next(iter(shares.values())).shape
    plans = {language: most_specific(shares, language, removed) for language in shares}
    for number in range(RANDOM_DRAWS):
        flat = draw.choice(layers * experts, removed, replace=False)
        plans[f"random {number}"] = [(int(i) // experts, int(i) % experts) for i in flat]
    costs = {}
    for name, plan in plans.items():
        with switched_off(model, plan):
            without = bits_per_byte(score(model, texts.ids, what=f"without {name}").nats, texts)
        costs[name] = {language: without[language] - base[language] for language in base}
    random_costs = [costs.pop(f"random {number}") for number in range(RANDOM_DRAWS)]
    random_mean = {language: float(np.mean([c[language] for c in random_costs])) for language in base}
    return {"experts": {k: v for k, v in plans.items() if k in shares}, "extra": costs, "random": random_mean}


def evaluate(recipe: Recipe, model_path: Path, work: Path, *, count: int) -> dict:
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    model.set_experts_implementation("eager")
    held_out = Texts.load(work, "held_out")
    trained = score(model, held_out.ids, what="held-out")
    untrained_model = new_model(recipe).eval()
    untrained_model.set_experts_implementation("eager")
    untrained = score(untrained_model, held_out.ids, what="untrained")
    row = recipe.training.row_tokens
    stream = token_stream(work, 8 * row * count, recipe.seed + 1)
    rows = [stream[at : at + row] for at in range(0, len(stream), row)]
    load = score(model, rows, what="training mix").chosen.sum(axis=0)
    seen = Texts.load(work, "train").sample(count, recipe.seed)
    shares = share_by_language(score(model, seen.ids, what="languages"), seen)
    return {
        "bits_per_byte": bits_per_byte(trained.nats, held_out),
        "xz": xz_bits_per_byte(held_out),
        "untrained": bits_per_byte(untrained.nats, held_out),
        "held_out_segments": dict(Counter(held_out.language)),
        "load": (load / load.sum(axis=1, keepdims=True)).round(5).tolist(),
        "divergence_from_english": divergence_from_english(trained, held_out),
        "removal": removal_costs(
            model, shares, held_out.sample(count, recipe.seed), recipe.removed_experts, recipe.seed
        ),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, metavar="DIR", help="the model (default: WORK/model)")
    parser.add_argument("--out", type=Path, default=SAMPLE_DATA / "evaluation.json", metavar="FILE")
    parser.add_argument("--count", type=int, default=150, help="texts of a language where a sample is enough")
    options = parser.parse_args()
    recipe = recipe_of(options)
    result = evaluate(recipe, options.model or options.work / "model", options.work, count=options.count)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for language, bits in result["bits_per_byte"].items():
        print(f"{language}: {bits:.3f} bits a byte, xz {result['xz'][language]:.3f}")
    print(f"mean {np.mean(list(result['bits_per_byte'].values())):.3f}, "
          f"smallest share of an expert {np.min(result['load']):.4f}")  # fmt: skip


if __name__ == "__main__":
    main()

"""What steering and serving cost, beside transformers' own `generate` on the same model and prompt.

    python benchmarks/serve_steering.py [MODEL] [--tokens 64] [--repeats 15]

Interleaves the contestants and prints, as medians: the wait for the first token of a served request; time per
token of `generate`, of one served side, and of a comparison; and as ratios what steering adds, with several
profiles. One thread, so that numbers of other programs on the machine disturb less.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from moescope.tracer.client import Client, connect
from moescope.tracer.load import load_model
from moescope.tracer.serve.served import Served
from moescope.tracer.serve.server import serve_in_background

PROMPT = "All human beings are born free and equal in dignity and rights."
PROFILES = {
    "off, 1 expert in 1 layer": [{"rule": "off", "layers": [3], "experts": [7]}],
    "off, 4 experts in all layers": [{"rule": "off", "layers": "all", "experts": [1, 7, 8, 9]}],
    "bias, 4 experts in all layers": [
        {"rule": "bias", "layers": "all", "experts": [1, 7, 8, 9], "amount": 0.5}
    ],
    "scale, 4 experts in all layers": [{"rule": "scale", "layers": "all", "experts": [1, 7], "amount": 0.5}],
}


def median(calls: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median of what each call returns, taken in turns after one round to warm up."""
    seen: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(repeats + 1):
        for name, call in calls.items():
            value = call()
            if round_number:
                seen[name].append(value)
    return {name: statistics.median(values) for name, values in seen.items()}


def served(client: Client, tokens: int, **wishes) -> Callable[[], float]:
    """Seconds of one request."""

    def run() -> float:
        start = time.perf_counter()
        for _ in client.generate(PROMPT, max_new_tokens=tokens, **wishes):
            pass
        return time.perf_counter() - start

    return run


def first_token(client: Client, **wishes) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        with client.generate(PROMPT, max_new_tokens=64, **wishes) as events:
            next(events)
            return time.perf_counter() - start

    return run


def plain(model, ids: Tensor, tokens: int) -> Callable[[], float]:
    """Seconds of transformers' own greedy generation."""

    @torch.inference_mode()
    def run() -> float:
        start = time.perf_counter()
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
            do_sample=False, pad_token_id=0, disable_compile=True,
        )  # fmt: skip
        return time.perf_counter() - start

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).resolve().parent.parent / "sample_data" / "model"
    parser.add_argument("model", nargs="?", default=str(default))
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(chosen.model)
    loaded.model.generation_config.eos_token_id = None  # every answer has all its tokens
    ids = loaded.tokenizer(PROMPT, return_tensors="pt")["input_ids"].to(loaded.model.device)
    with serve_in_background(lambda: Served.of(*loaded)) as address:
        address.engine.wait_ready()
        client = connect(address.url, address.token)
        profiles = {name: {"rules": rules} for name, rules in PROFILES.items()}
        calls = {"generate": plain(loaded.model, ids, chosen.tokens), "served": served(client, chosen.tokens)}
        calls |= {name: served(client, chosen.tokens, steering=p) for name, p in profiles.items()}
        heavy = profiles["off, 4 experts in all layers"]
        calls["compared"] = served(client, chosen.tokens, steering=heavy, compare=True)
        seconds = median(calls, chosen.repeats)
        waits = median(
            {"alone": first_token(client), "compared": first_token(client, steering=heavy, compare=True)},
            chosen.repeats,
        )
    print(f"first token: {waits['alone'] * 1e3:.0f} ms, compared {waits['compared'] * 1e3:.0f} ms")
    base = seconds["served"]
    print(f"transformers' generate: {seconds['generate'] / chosen.tokens * 1e3:.2f} ms a token")
    print(
        f"served: {base / chosen.tokens * 1e3:.2f} ms a token, x {base / seconds['generate']:.3f} of generate"
    )
    for name in PROFILES:
        print(f"steered ({name}): x {seconds[name] / base:.3f} of served")
    print(f"both sides, with KL: x {seconds['compared'] / base:.3f} of served")


if __name__ == "__main__":
    main()

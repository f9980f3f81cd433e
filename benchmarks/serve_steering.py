"""What steering costs, what watching costs, and how long a served answer lets one wait.

    python benchmarks/serve_steering.py [MODEL] [--part steering watching waiting] [--tokens 16] [--pairs 41]

1. steering: transformers' own `generate` under a profile beside the same call without one. Nothing is recorded.
2. watching: what a served answer adds to that: chosen experts and log-probability of every token, over HTTP; then the
   second side of a comparison with KL, and next-token candidates.
3. waiting: from the request to the first token.

A ratio is the median of alternating pairs, with their quartiles: the two of a pair run one after the other, so that
a busy machine slows both alike. One thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moescope.tracer import Steering
from moescope.tracer.client import Client, connect
from moescope.tracer.models.load import load_model
from moescope.tracer.serve.engine.served import Served
from moescope.tracer.serve.server import serve_in_background

PROMPT = "All human beings are born free and equal in dignity and rights."
PARTS = ("steering", "watching", "waiting")
FOUR = [1, 7, 8, 9]
PROFILES: dict[str, list[dict[str, Any]]] = {
    "off, 1 expert in 1 layer": [{"rule": "off", "layers": [3], "experts": [7]}],
    "off, 4 experts in all layers": [{"rule": "off", "layers": "all", "experts": FOUR}],
    "on, 1 expert in all layers": [{"rule": "on", "layers": "all", "experts": [7]}],
    "bias, 4 experts in all layers": [{"rule": "bias", "layers": "all", "experts": FOUR, "amount": 0.5}],
    "scale, 2 experts in all layers": [{"rule": "scale", "layers": "all", "experts": [1, 7], "amount": 0.5}],
}
Run = Callable[[], float]
"""Does something once and says how many seconds it took."""


def ratios(runs: dict[str, tuple[Run, Run]], pairs: int) -> dict[str, list[float]]:
    """For each name the ratios of its first run to its second, in alternating order after a pair to warm up."""
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(pairs + 1):
        for name, (run, beside) in runs.items():
            first, second = (run(), beside()) if number % 2 else (beside(), run())
            if number:
                seen[name].append(first / second if number % 2 else second / first)
    return seen


def told(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"x {middle:.3f} ({low:.3f} to {high:.3f})"


def generating(model: Any, ids: Tensor, tokens: int, steering: Steering | None) -> Run:
    """Transformers' own greedy generation, under a steering that is in force before the clock starts."""

    @torch.inference_mode()
    def run() -> float:
        applied: AbstractContextManager[Any] = steering.applied(model) if steering else nullcontext()
        with applied:
            start = time.perf_counter()
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                do_sample=False, pad_token_id=0, disable_compile=True,
            )  # fmt: skip
            return time.perf_counter() - start

    return run


def asking(client: Client, tokens: int, **wishes: Any) -> Run:
    """A served answer, to its last token."""

    def run() -> float:
        start = time.perf_counter()
        for _ in client.generate(PROMPT, max_new_tokens=tokens, **wishes):
            pass
        return time.perf_counter() - start

    return run


def first_token(client: Client, **wishes: Any) -> Run:
    def run() -> float:
        start = time.perf_counter()
        with client.generate(PROMPT, max_new_tokens=64, **wishes) as events:
            next(events)
            return time.perf_counter() - start

    return run


def steering_part(model: Any, ids: Tensor, chosen: argparse.Namespace) -> None:
    plain = generating(model, ids, chosen.tokens, None)
    steered = {name: generating(model, ids, chosen.tokens, Steering(p)) for name, p in PROFILES.items()}
    found = ratios({name: (run, plain) for name, run in steered.items()}, chosen.pairs)
    again = [plain() for _ in range(5)]
    print(f"plain generate: {statistics.median(again) / chosen.tokens * 1e3:.2f} ms a token")
    for name, values in found.items():
        print(f"steered, {name}: {told(values)} of plain")
    applying = []
    for _ in range(chosen.pairs):
        start = time.perf_counter()
        with Steering(PROFILES["off, 4 experts in all layers"]).applied(model):
            applying.append(time.perf_counter() - start)
    print(f"putting a profile in force: {statistics.median(applying) * 1e3:.1f} ms, once an answer")


def watching_part(model: Any, ids: Tensor, client: Client, chosen: argparse.Namespace) -> None:
    profile = {"rules": PROFILES["off, 4 experts in all layers"]}
    plain, base = generating(model, ids, chosen.tokens, None), asking(client, chosen.tokens)
    one = asking(client, chosen.tokens, steering=profile)
    both = asking(client, chosen.tokens, steering=profile, compare=True)
    most = asking(client, chosen.tokens, steering=profile, compare=True, candidates=5)
    runs = {
        "served, experts and log-probabilities watched: of plain generate": (base, plain),
        "served and steered: of served": (one, base),
        "served, both sides with KL: of served and steered": (both, one),
        "the same with 5 candidates of each side: of without": (most, both),
    }
    for name, values in ratios(runs, chosen.pairs).items():
        print(f"{name}: {told(values)}")


def waiting_part(client: Client, chosen: argparse.Namespace) -> None:
    profile = {"rules": PROFILES["off, 4 experts in all layers"]}
    runs = {
        "alone": first_token(client),
        "compared": first_token(client, steering=profile, compare=True),
        "compared, also along the prompt": first_token(
            client, steering=profile, compare=True, candidates=8, positions=True
        ),
    }
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(chosen.pairs + 1):
        for name, run in runs.items():
            milliseconds = run() * 1e3
            if number:
                seen[name].append(milliseconds)
    for name, values in seen.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"first token, {name}: {middle:.1f} ms ({low:.1f} to {high:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).resolve().parent.parent / "sample_data" / "model"
    parser.add_argument("model", nargs="?", default=str(default))
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=41)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(chosen.model)
    loaded.model.generation_config.eos_token_id = None  # every answer has all its tokens
    ids = loaded.tokenizer(PROMPT, return_tensors="pt")["input_ids"].to(loaded.model.device)
    if "steering" in chosen.part:
        steering_part(loaded.model, ids, chosen)
    if not {"watching", "waiting"} & set(chosen.part):
        return
    with serve_in_background(lambda: Served.of(*loaded)) as address:
        address.engine.wait_ready()
        client = connect(address.url, address.token)
        if "watching" in chosen.part:
            watching_part(loaded.model, ids, client, chosen)
        if "waiting" in chosen.part:
            waiting_part(client, chosen)


if __name__ == "__main__":
    main()

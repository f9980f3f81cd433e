"""Random parts of every shape, kept as plain Python beside what is written: the independent record in tests."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from moescope.store import Part, RouterEvents, RouterSpec, RouterSums


@dataclass
class Recorded:
    """Parts as arrays, and the same as plain rows."""

    routers: list[RouterSpec]
    parts: list[Part] = field(default_factory=list)
    prompts: list[dict] = field(default_factory=list)
    tokens: list[dict] = field(default_factory=list)
    events: list[dict] = field(default_factory=list)
    """prompt_id, position, layer, stream, experts, weights, probability (E floats)."""


def random_routers(rng: random.Random) -> list[RouterSpec]:
    routers = []
    for layer in sorted(rng.sample(range(9), rng.randint(1, 3))):
        for stream in rng.sample(["decoder", "encoder"], rng.randint(1, 2)):
            experts = rng.choice([2, 5, 300])
            top_k = rng.choice([None, 1, 2])
            routers.append(
                RouterSpec(
                    layer=layer, stream=stream, num_experts=experts, top_k=top_k, router=f"{layer}.{stream}"
                )
            )
    return routers


def record(seed: int, parts: int = 2) -> Recorded:
    """Parts with 0 to 4 prompts of 0 to 6 tokens each."""
    rng = random.Random(seed)
    recorded = Recorded(random_routers(rng))
    for number in range(parts):
        _add_part(recorded, rng, number)
    return recorded


def _add_part(recorded: Recorded, rng: random.Random, number: int) -> None:
    prompts = [
        {
            "prompt_id": f"{number}-{i} 'é{chr(rng.randint(0x4E00, 0x4EFF))}",
            "text": rng.choice(["", "=1+1", "text\n<b>", "日本語"]),
            "language": rng.choice([None, "en", "ja"]),
            "group": rng.choice(["a", "b"]),
            "tags": [("colour", rng.choice(["red", "blue"]))] if rng.random() < 0.7 else [],
        }
        for i in range(rng.randint(0, 4))
    ]
    tokens = [
        {
            "prompt": i,
            "position": position,
            "token_id": rng.choice([None, rng.randint(0, 50)]),
            "token": rng.choice(["a", "▁b", " ", None]),
            "phase": rng.choice(["prefill", "decode"]),
            "special": rng.random() < 0.2,
            "completion": rng.random() < 0.3,
        }
        for i in range(len(prompts))
        for position in range(rng.randint(0, 6))
    ]
    events, sums = [], []
    for spec in recorded.routers:
        rows = [token for token in tokens if rng.random() < 0.9]
        made = [_event(rng, spec, token) for token in rows]
        events.append(_arrays(spec, rows, made))
        sums.append(_sums(spec, rows, made))
        recorded.events += [
            {"prompt_id": prompts[token["prompt"]]["prompt_id"], "token": token, "layer": spec.layer}
            | {"stream": spec.stream, "position": token["position"]}
            | event
            for token, event in zip(rows, made, strict=True)
        ]
    shuffled = rng.sample(tokens, len(tokens))
    recorded.prompts += prompts
    recorded.tokens += [t | {"prompt_id": prompts[t["prompt"]]["prompt_id"]} for t in tokens]
    types = {"prompt": pa.int32(), "position": pa.int32(), "token_id": pa.int32(), "token": pa.string()}
    types |= {"phase": pa.string(), "special": pa.bool_(), "completion": pa.bool_()}
    columns = {name: pa.array([t[name] for t in shuffled], kind) for name, kind in types.items()}
    prompt_types = {name: pa.string() for name in ("prompt_id", "text", "language", "group")}
    prompt_types["tags"] = pa.map_(pa.string(), pa.string())
    recorded.parts.append(
        Part(
            prompts=pa.table(
                {name: pa.array([p[name] for p in prompts], kind) for name, kind in prompt_types.items()}
            ),
            tokens=pa.table(columns),
            events=events,
            sums=sums,
        )
    )


def _event(rng: random.Random, spec: RouterSpec, token: dict) -> dict:
    k = spec.top_k if spec.top_k is not None else rng.randint(0, 2)
    weights = sorted((rng.randint(0, 64) / 64 for _ in range(k)), reverse=True)
    probability = [rng.randint(0, 8) / 8 for _ in range(spec.num_experts)]
    return {
        "experts": rng.sample(range(spec.num_experts), k),
        "weights": weights,
        "probability": probability,
        "nan": rng.random() < 0.1,
    }


def _arrays(spec: RouterSpec, rows: list[dict], made: list[dict]) -> RouterEvents:
    experts = np.array([e for event in made for e in event["experts"]], np.uint16)
    weights = np.array([w for event in made for w in event["weights"]], np.float16)
    offsets = None
    if spec.top_k is None:
        offsets = np.r_[0, np.cumsum([len(event["experts"]) for event in made])].astype(np.int64)
    else:
        experts, weights = (a.reshape(len(rows), spec.top_k) for a in (experts, weights))
    return RouterEvents(
        layer=spec.layer,
        stream=spec.stream,
        prompt=np.array([t["prompt"] for t in rows], np.int32),
        position=np.array([t["position"] for t in rows], np.int32),
        experts=experts,
        weights=weights,
        offsets=offsets,
    )


def _sums(spec: RouterSpec, rows: list[dict], made: list[dict]) -> RouterSums:
    found: dict[tuple, list] = {}
    for token, event in zip(rows, made, strict=True):
        key = (token["prompt"], token["phase"] == "decode", token["special"], token["completion"])
        entry = found.setdefault(key, [np.zeros(spec.num_experts), 0])
        if event["nan"]:
            entry[1] += 1
        else:
            entry[0] += event["probability"]
    keys = list(found)
    return RouterSums(
        layer=spec.layer,
        stream=spec.stream,
        prompt=np.array([k[0] for k in keys], np.int32),
        phase=np.array([k[1] for k in keys], np.uint8),
        special=np.array([k[2] for k in keys], bool),
        completion=np.array([k[3] for k in keys], bool),
        probability_sum=np.array([found[k][0] for k in keys], np.float32).reshape(
            len(keys), spec.num_experts
        ),
        entropy_sum=np.zeros(len(keys)),
        nan_tokens=np.array([found[k][1] for k in keys], np.int64),
    )

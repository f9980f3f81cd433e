"""A deterministic trace of any size without a model: for tests, benchmarks and trying things out.

Experts are drawn by a Gumbel top-k race from logits that depend on layer, language and prompt, so usage is
skewed and languages differ, more in the first and last layers. It is not the routing of any model, and says
so.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..schema import Part, RouterEvents, RouterSpec, RouterSums
from .writer import TraceWriter

LANGUAGES = [
    "en",
    "de",
    "fr",
    "es",
    "it",
    "pt",
    "ru",
    "zh",
    "ja",
    "ko",
    "tr",
    "el",
    "nl",
    "pl",
    "sv",
    "vi",
    "ar",
    "hi",
    "he",
    "sw",
]
_VOCABULARY = 5000
_TOKENS = pa.array(["<s>", *(f" t{n}" for n in range(1, _VOCABULARY + 1))])


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """The size and the statistics of a synthetic trace."""

    prompts: int = 60
    tokens_per_prompt: int = 40
    """Mean length; lengths vary by half of it."""
    layers: int = 4
    experts: int = 16
    top_k: int = 4
    languages: int = 4
    """Prompts go round the first so many of `LANGUAGES`; those of one round share a parallel_id."""
    part_tokens: int = 65536
    """Tokens after which a part is closed."""
    skew: float = 1.0
    """Standard deviation of the experts' mean logits: 0 is an even load."""
    varying_k: bool = False
    """Whether tokens use between 1 and k experts."""
    first_layer: int = 0
    seed: int = 0

    def routers(self) -> list[RouterSpec]:
        return [
            RouterSpec(
                layer=self.first_layer + i,
                num_experts=self.experts,
                top_k=None if self.varying_k else self.top_k,
                router=f"layers.{self.first_layer + i}.gate",
                found_by="synthetic",
            )
            for i in range(self.layers)
        ]


def synthetic_parts(plan: Synthetic, done: Collection[str] = ()) -> Iterator[Part]:
    """Parts of the trace, one after another; those whose first prompt is `done` are not made."""
    logits_LGE = _mean_logits(plan)
    rng = np.random.default_rng([plan.seed, 1])
    half = plan.tokens_per_prompt // 2
    lengths = plan.tokens_per_prompt + rng.integers(-half, half + 1, plan.prompts)
    starts = np.cumsum(lengths) // plan.part_tokens
    for number in np.unique(starts):
        numbers = np.flatnonzero(starts == number)
        if _prompt_id(numbers[0]) not in done:
            yield _part(plan, numbers, lengths[numbers], logits_LGE)


def write_synthetic(
    url: str | os.PathLike[str], plan: Synthetic | None = None, *, resume: bool = False
) -> None:
    """Write a synthetic trace, or the rest of one that was interrupted."""
    plan = plan or Synthetic()
    writer = TraceWriter(
        url,
        routers=plan.routers(),
        model={"name": "synthetic", "class": "none: drawn at random"},
        prompt_set={"fingerprint": f"synthetic-{plan.seed}-{plan.prompts}"},
        settings={"plan": repr(plan)},
        resume=resume,
    )
    with writer as out:
        for part in synthetic_parts(plan, set(out.committed_prompts)):
            out.write(part)
        out.finish()


def _mean_logits(plan: Synthetic) -> np.ndarray:
    """(L, G, E): what experts get on average in each language."""
    rng = np.random.default_rng([plan.seed, 0])
    base = rng.normal(0, plan.skew, (plan.layers, 1, plan.experts))
    own = rng.normal(0, 1, (plan.layers, plan.languages, plan.experts))
    depth = np.linspace(-1, 1, plan.layers)[:, None, None]
    own[:, 0] = 0
    return base + own * (0.3 + 0.7 * depth**2)


def _part(plan: Synthetic, numbers: np.ndarray, lengths: np.ndarray, logits_LGE: np.ndarray) -> Part:
    rng = np.random.default_rng([plan.seed, 2, int(numbers[0])])
    prompt_N = np.repeat(np.arange(len(numbers), dtype=np.int32), lengths)
    position_N = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    prompt_noise = rng.normal(0, 0.3, (plan.layers, len(numbers), plan.experts))
    events, sums = [], []
    for i, spec in enumerate(plan.routers()):
        mean_PE = logits_LGE[i, numbers % plan.languages] + prompt_noise[i]
        z_NE = mean_PE.astype(np.float32)[prompt_N] - np.log(
            rng.standard_exponential((len(prompt_N), plan.experts), dtype=np.float32) + np.float32(1e-20)
        )
        events.append(_events(plan, spec, prompt_N, position_N, z_NE, rng))
        sums.append(_sums(spec, prompt_N, position_N, z_NE))
    ids = [_prompt_id(n) for n in numbers]
    return Part(
        prompts=_prompts(plan, ids, numbers),
        tokens=_tokens(prompt_N, position_N, rng),
        events=events,
        sums=sums,
    )


def _events(
    plan: Synthetic,
    spec: RouterSpec,
    prompt_N: np.ndarray,
    position_N: np.ndarray,
    z_NE: np.ndarray,
    rng: np.random.Generator,
) -> RouterEvents:
    k = plan.top_k
    ids_NK = np.argpartition(-z_NE, k - 1, axis=1)[:, :k]
    z_NK = np.take_along_axis(z_NE, ids_NK, 1)
    order = np.argsort(-z_NK, axis=1)
    ids_NK = np.take_along_axis(ids_NK, order, 1).astype(np.uint16)
    z_NK = np.take_along_axis(z_NK, order, 1)
    weights_NK = np.exp(z_NK - z_NK[:, :1])
    weights_NK /= weights_NK.sum(1, keepdims=True)
    offsets = None
    if plan.varying_k:
        used = rng.integers(1, k + 1, len(prompt_N))
        offsets = np.r_[0, np.cumsum(used)]
        kept = np.arange(k) < used[:, None]
        ids_NK, weights_NK = ids_NK[kept], weights_NK[kept]
    return RouterEvents(
        layer=spec.layer,
        stream=spec.stream,
        prompt=prompt_N,
        position=position_N,
        experts=ids_NK,
        weights=weights_NK.astype(np.float16),
        offsets=offsets,
    )


def _sums(spec: RouterSpec, prompt_N: np.ndarray, position_N: np.ndarray, z_NE: np.ndarray) -> RouterSums:
    """Rows by prompt: the special first token, then the others (special sorts last)."""
    shifted = z_NE - z_NE.max(1, keepdims=True)
    p_NE = np.exp(shifted)
    total = p_NE.sum(1, keepdims=True)
    p_NE /= total
    entropy_N = (np.log(total[:, 0]) - (p_NE * shifted).sum(1)).astype(np.float64)
    first = position_N == 0
    row_N = prompt_N * 2 + first
    order = np.argsort(row_N, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(row_N[order]) > 0])
    rows = row_N[order][starts]
    return RouterSums(
        layer=spec.layer,
        stream=spec.stream,
        prompt=(rows // 2).astype(np.int32),
        phase=np.zeros(len(rows), np.uint8),
        special=rows % 2 == 1,
        completion=np.zeros(len(rows), bool),
        probability_sum=np.add.reduceat(p_NE[order], starts, axis=0, dtype=np.float64).astype(np.float32),
        entropy_sum=np.add.reduceat(entropy_N[order], starts),
        nan_tokens=np.zeros(len(rows), np.int64),
    )


def _prompt_id(number: int) -> str:
    return f"p{number:06d}"


def _prompts(plan: Synthetic, ids: Sequence[str], numbers: np.ndarray) -> pa.Table:
    rounds = (numbers // plan.languages).tolist()
    return pa.table(
        {
            "prompt_id": list(ids),
            "text": [f"Synthetic prompt {n}" for n in numbers],
            "language": [LANGUAGES[n % plan.languages] for n in numbers],
            "group": ["even" if r % 2 == 0 else "odd" for r in rounds],
            "parallel_id": [f"u{r:05d}" for r in rounds],
            "tags": pa.array(
                [[("seen", "yes" if n % 3 else "no")] for n in numbers], pa.map_(pa.string(), pa.string())
            ),
        }
    )


def _tokens(prompt_N: np.ndarray, position_N: np.ndarray, rng: np.random.Generator) -> pa.Table:
    token_N = np.minimum(rng.zipf(1.3, len(prompt_N)), _VOCABULARY).astype(np.int32)
    first = position_N == 0
    token_N[first] = 0
    return pa.table(
        {
            "prompt": prompt_N,
            "position": position_N,
            "token_id": token_N,
            "token": _TOKENS.take(pa.array(token_N)),
            "phase": pa.repeat(pa.scalar("prefill"), len(prompt_N)),
            "special": first,
            "completion": np.zeros(len(prompt_N), bool),
        }
    )

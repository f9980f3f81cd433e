"""From sequences to a trace that is there whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import ImportRefused, TraceExists, plain_os_errors
from ..files.folder import open_folder
from ..files.lock import is_being_written
from ..files.manifest import MANIFEST_NAME
from ..schema import Part, RouterCounts, RouterEvents, RouterKey, RouterSpec
from ..write.writer import TraceWriter
from .check import check_sequences
from .probabilities import chosen_extras, router_sums
from .sequences import Events, ImportedSequence

PART_TOKENS = 65536
IMPORTING = ".importing-"
LEFT_SECONDS = 3600.0
"""Age beyond which a copy that nobody writes was left by an import that was killed."""


@dataclass(frozen=True)
class Imported:
    """What an import made."""

    url: str
    prompts: int
    tokens: int
    events: int
    notes: list[str]
    """What the user must know, one line each."""


def write_trace(
    sequences: Sequence[ImportedSequence],
    out: str | os.PathLike[str],
    *,
    source: dict[str, Any],
    experts: int | None,
    notes: list[str],
    top_k: int | None = None,
    scoring: str = "none",
) -> Imported:
    """Write a trace under a temporary name and move it to its place when it is whole.

    Args:
        source: what the trace was made from, for the manifest.
        experts: E of every router; None: the largest id that occurs, plus 1.
        top_k: k of routers of which only counts are known.
        scoring: how the routers make probabilities; "none" where there are none.
    Raises:
        TraceExists: something is at `out`.
        ImportRefused: an expert id is not below `experts`, or `check` refuses what no router can have made.
    """
    name = Path(str(source["path"])).name
    routers = _routers(sequences, experts, top_k, scoring, name)
    if not routers:
        raise ImportRefused(f"{source['path']}: it holds no routing event")
    check_sequences(sequences, name)
    capture = _capture(sequences)
    final = os.fspath(out)
    remote = "://" in final
    target = final if remote else _temporary(Path(final))
    try:
        writer = TraceWriter(
            target,
            routers=routers,
            model={"name": source.get("model") or f"imported from {source['format']}"},
            prompt_set={"name": name},
            settings={"import": source},
            capture=capture,
        )
        with writer as trace:
            for part in _parts(sequences, routers):
                trace.write(part)
            trace.finish(notes=notes)
        if not remote:
            with plain_os_errors(f"{final}: the trace could not be moved there"):
                os.rename(target, final)
    except BaseException:
        if not remote:
            shutil.rmtree(target, ignore_errors=True)
        raise
    return Imported(
        url=final,
        prompts=len(sequences),
        tokens=sum(len(sequence.tokens["position"]) for sequence in sequences),
        events=sum(len(events.position) for sequence in sequences for events in sequence.events.values()),
        notes=notes,
    )


def _temporary(final: Path) -> str:
    if final.is_dir() and not any(final.iterdir()):
        final.rmdir()
    if final.exists():
        what = "a trace" if (final / MANIFEST_NAME).exists() else "something"
        raise TraceExists(f"{final} already holds {what}: choose another place")
    with plain_os_errors(f"{final.parent}: can't make the folder"):
        final.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(final)
    return str(final.parent / f".{final.name}{IMPORTING}{uuid.uuid4().hex[:8]}")


def _remove_leftovers(final: Path) -> None:
    """Copies of imports to this place that were killed: nobody has held their lock for a while."""
    for path in final.parent.glob(f".{glob.escape(final.name)}{IMPORTING}*"):
        manifest = path / MANIFEST_NAME
        old = manifest.is_file() and manifest.stat().st_mtime < time.time() - LEFT_SECONDS
        if old and not is_being_written(open_folder(path)):
            shutil.rmtree(path, ignore_errors=True)


def _routers(
    sequences: Sequence[ImportedSequence], experts: int | None, top_k: int | None, scoring: str, name: str
) -> list[RouterSpec]:
    most: dict[RouterKey, int] = {}
    lengths: dict[RouterKey, set[int | None]] = {}
    exact: set[RouterKey] = set()
    for sequence in sequences:
        for router, events in sequence.events.items():
            most[router] = max(most.get(router, -1), int(events.experts.max(initial=-1)))
            lengths.setdefault(router, set()).update(np.unique(events.lengths).tolist())
            if events.probabilities_NE is not None:
                most[router] = max(most[router], events.probabilities_NE.shape[1] - 1)
                exact.add(router)
        for router, counts in sequence.counts.items():
            most[router] = max(most.get(router, -1), len(counts.count_E) - 1)
            lengths.setdefault(router, set()).add(top_k)
    for router, largest in most.items():
        if largest < 0:
            raise ImportRefused(f"{name}, {router}: no token chose an expert here; leave its rows out")
        if experts is not None and largest >= experts:
            raise ImportRefused(f"{name}, {router} uses expert {largest}, but there are {experts} experts")
    return [
        _router(router, most[router], lengths[router], experts, scoring if router in exact else "none", exact)
        for router in sorted(most, key=lambda router: (router.layer, router.stream))
    ]


def _router(
    router: RouterKey,
    largest: int,
    lengths: set[int | None],
    experts: int | None,
    scoring: str,
    exact: set[RouterKey],
) -> RouterSpec:
    guessed = experts is None and router not in exact
    return RouterSpec(
        layer=router.layer,
        stream=router.stream,
        num_experts=experts if experts is not None else largest + 1,
        top_k=next(iter(lengths)) if len(lengths) == 1 else None,
        router="",
        scoring=scoring,
        steerable=False,
        note="the number of experts is the largest id that occurs, plus 1" if guessed else "",
        found_by="import",
    )


def _capture(sequences: Sequence[ImportedSequence]) -> tuple[str, ...]:
    """What is known of any router: weights (also as sums only), probabilities."""
    events = [e for sequence in sequences for e in sequence.events.values()]
    counts = [c for sequence in sequences for c in sequence.counts.values()]
    weighted = any(e.weights is not None for e in events) or any(c.weight_sum_E is not None for c in counts)
    scored = any(e.probabilities_NE is not None for e in events)
    return ("ids", *(["weights"] if weighted else []), *(["probability", "entropy"] if scored else []))


def _parts(sequences: Sequence[ImportedSequence], routers: list[RouterSpec]) -> Iterator[Part]:
    waiting: list[ImportedSequence] = []
    size = 0
    for sequence in sequences:
        waiting.append(sequence)
        size += len(sequence.tokens["position"]) + 1
        if size >= PART_TOKENS:
            yield _part(waiting, routers)
            waiting, size = [], 0
    if waiting:
        yield _part(waiting, routers)


def _part(sequences: list[ImportedSequence], routers: list[RouterSpec]) -> Part:
    lengths = [len(sequence.tokens["position"]) for sequence in sequences]
    kinds = {"position": pa.int32(), "token_id": pa.int32(), "token": pa.string(), "phase": pa.string()}
    kinds |= {"special": pa.bool_(), "completion": pa.bool_()}
    # One row a token, sequences after one another: (sum of lengths,).
    tokens = {"prompt": pa.array(np.repeat(np.arange(len(sequences)), lengths), pa.int32())}
    for name, kind in kinds.items():
        values: list[Any] = []
        for sequence, length in zip(sequences, lengths, strict=True):
            values += sequence.tokens.get(name) or [None] * length
        tokens[name] = pa.array(values, kind)
    prompts = [dict(sequence.prompt) for sequence in sequences]
    for prompt in prompts:
        prompt["tags"] = list(prompt.get("tags", {}).items())
    columns = {name: pa.array([p.get(name) for p in prompts], pa.string()) for name in _PROMPT_TEXTS}
    columns["tags"] = pa.array([p["tags"] for p in prompts], pa.map_(pa.string(), pa.string()))
    return Part(
        prompts=pa.table(columns),
        tokens=pa.table(tokens),
        events=[e for spec in routers if (e := _router_events(sequences, spec)) is not None],
        sums=[s for spec in routers if (s := router_sums(sequences, spec)) is not None],
        counts=[c for spec in routers if (c := _router_counts(sequences, spec)) is not None],
    )


_PROMPT_TEXTS = ("prompt_id", "text", "language", "group", "parallel_id", "generated")


def _router_events(sequences: list[ImportedSequence], spec: RouterSpec) -> RouterEvents | None:
    key = spec.key
    found = [(i, sequence.events[key]) for i, sequence in enumerate(sequences) if key in sequence.events]
    if not found:
        return None
    lengths = np.concatenate([events.lengths for _, events in found])
    weights = [_weights(events) for _, events in found]
    weighted = [w for w in weights if w is not None]
    return RouterEvents(
        layer=spec.layer,
        stream=spec.stream,
        prompt=np.concatenate([np.full(len(events.position), i, np.int32) for i, events in found]),
        position=np.concatenate([events.position for _, events in found]).astype(np.int32),
        experts=np.concatenate([events.experts for _, events in found]).astype(np.uint32),
        weights=np.concatenate(weighted).astype(np.float32) if len(weighted) == len(weights) else None,
        # Events of all sequences lie flat, one after another: (S,) experts, and N + 1 offsets, since k may vary.
        offsets=np.r_[0, np.cumsum(lengths)].astype(np.int64),
        extras=chosen_extras([events for _, events in found]),
    )


def _weights(events: Events) -> np.ndarray | None:
    """Of events without a single expert there is nothing to know."""
    return events.weights if len(events.experts) else np.zeros(0, np.float32)


def _router_counts(sequences: list[ImportedSequence], spec: RouterSpec) -> RouterCounts | None:
    key = spec.key
    found = [(i, sequence.counts[key]) for i, sequence in enumerate(sequences) if key in sequence.counts]
    if not found:
        return None
    sums = [counts.weight_sum_E for _, counts in found]
    weighted = [_widened(total_E, spec.num_experts) for total_E in sums if total_E is not None]
    return RouterCounts(
        layer=spec.layer,
        stream=spec.stream,
        prompt=np.array([i for i, _ in found], np.int32),
        tokens=np.array([counts.tokens for _, counts in found], np.int64),
        count=np.stack([_widened(counts.count_E, spec.num_experts) for _, counts in found]),
        weight_sum=np.stack(weighted) if len(weighted) == len(sums) else None,
    )


def _widened(values_E: np.ndarray, experts: int) -> np.ndarray:
    """Sums of experts up to the largest that a sequence names, with 0 for the others."""
    return np.pad(values_E, (0, experts - len(values_E)))

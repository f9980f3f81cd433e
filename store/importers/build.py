"""From validated records to a trace that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import ImportRefused, TraceExists, plain_os_errors
from ..files.manifest import MANIFEST_NAME
from ..schema import Part, RouterCounts, RouterEvents, RouterSpec
from ..write.writer import TraceWriter

PART_TOKENS = 65536
Router = tuple[int, str]
"""Layer and stream."""


@dataclass(frozen=True)
class Imported:
    """What an import made."""

    url: str
    prompts: int
    tokens: int
    events: int
    notes: list[str]
    """What the user must know, one line each."""


@dataclass
class Events:
    """Events of one sequence at one router."""

    position: np.ndarray
    """(N,) rising."""
    experts: np.ndarray
    """Flat, in the order that is kept."""
    lengths: np.ndarray
    """(N,) number of experts of each event."""
    weights: np.ndarray | None = None
    """As experts, or None."""


@dataclass
class ImportedSequence:
    """One sequence with all that is known of it."""

    prompt: dict[str, Any]
    """Values by column of `schema.PROMPTS`; `tags` is a dict."""
    tokens: dict[str, list[Any]]
    """Columns of `schema.TOKENS` without `prompt`; `position` rising."""
    events: dict[Router, Events] = field(default_factory=dict)
    counts: dict[Router, tuple[int, np.ndarray]] = field(default_factory=dict)
    """Tokens and (E,) counts where no events are known."""


def grid_events(ids_NK: np.ndarray, weights_NK: np.ndarray | None = None) -> Events:
    """Events from an array with -1 in empty slots; tokens without any expert have no event."""
    filled = ids_NK >= 0
    lengths = filled.sum(axis=1)
    used = np.flatnonzero(lengths)
    return Events(
        position=used.astype(np.int64),
        experts=ids_NK[filled],
        lengths=lengths[used],
        weights=None if weights_NK is None else weights_NK[filled],
    )


def write_trace(
    sequences: Sequence[ImportedSequence],
    out: str | os.PathLike[str],
    *,
    source: dict[str, Any],
    experts: int | None,
    notes: list[str],
) -> Imported:
    """Write a trace under a temporary name and move it to its place when it is whole.

    Args:
        source: what the trace was made from, for the manifest.
        experts: E of every router; None: the largest id that occurs, plus 1.
    Raises:
        TraceExists: something is at `out`.
        ImportRefused: an expert id is not below `experts`.
    """
    routers = _routers(sequences, experts)
    if not routers:
        raise ImportRefused(f"{source['path']}: there is not a single routing event in it")
    capture = ("ids", "weights") if _weighted(sequences) else ("ids",)
    final = os.fspath(out)
    remote = "://" in final
    target = final if remote else _temporary(Path(final))
    try:
        writer = TraceWriter(
            target,
            routers=routers,
            model={"name": source.get("model") or f"imported from {source['format']}"},
            prompt_set={"name": Path(str(source["path"])).name},
            settings={"import": source},
            capture=capture,
        )
        with writer as trace:
            for part in _parts(sequences, routers):
                trace.write(part)
            trace.finish(notes=notes)
        if not remote:
            with plain_os_errors(f"{final}: the trace could not be put there"):
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
    return str(final.parent / f".{final.name}.importing-{uuid.uuid4().hex[:8]}")


def _routers(sequences: Sequence[ImportedSequence], experts: int | None) -> list[RouterSpec]:
    most: dict[Router, int] = {}
    lengths: dict[Router, set[int]] = {}
    for sequence in sequences:
        for router, events in sequence.events.items():
            largest = int(events.experts.max(initial=-1))
            most[router] = max(most.get(router, 0), largest)
            lengths.setdefault(router, set()).update(np.unique(events.lengths).tolist())
        for router, (_, count) in sequence.counts.items():
            most[router] = len(count) - 1
    found = []
    for layer, stream in sorted(most):
        largest = most[layer, stream]
        if experts is not None and largest >= experts:
            raise ImportRefused(
                f"layer {layer} ({stream}) uses expert {largest}, but there are {experts} experts"
            )
        ks = lengths.get((layer, stream), set())
        note = "" if experts is not None else "the number of experts is the largest id that occurs, plus 1"
        found.append(
            RouterSpec(
                layer=layer,
                stream=stream,
                num_experts=experts if experts is not None else largest + 1,
                top_k=ks.pop() if len(ks) == 1 else None,
                router="",
                scoring="none",
                steerable=False,
                note=note,
                found_by="import",
            )
        )
    return found


def _weighted(sequences: Sequence[ImportedSequence]) -> bool:
    return any(e.weights is not None for sequence in sequences for e in sequence.events.values())


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
        counts=[c for spec in routers if (c := _router_counts(sequences, spec)) is not None],
    )


_PROMPT_TEXTS = ("prompt_id", "text", "language", "group", "parallel_id", "generated")


def _router_events(sequences: list[ImportedSequence], spec: RouterSpec) -> RouterEvents | None:
    key = (spec.layer, spec.stream)
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
        offsets=np.r_[0, np.cumsum(lengths)].astype(np.int64),
    )


def _weights(events: Events) -> np.ndarray | None:
    """Of events without a single expert there is nothing to know."""
    return events.weights if len(events.experts) else np.zeros(0, np.float32)


def _router_counts(sequences: list[ImportedSequence], spec: RouterSpec) -> RouterCounts | None:
    key = (spec.layer, spec.stream)
    found = [(i, *sequence.counts[key]) for i, sequence in enumerate(sequences) if key in sequence.counts]
    if not found:
        return None
    return RouterCounts(
        layer=spec.layer,
        stream=spec.stream,
        prompt=np.array([i for i, _, _ in found], np.int32),
        tokens=np.array([tokens for _, tokens, _ in found], np.int64),
        count=np.stack([count for _, _, count in found]),
    )


def storable(text: Any, where: str) -> str:
    """Text that can be stored. Raises ImportRefused for broken Unicode."""
    try:
        str(text).encode()
    except UnicodeEncodeError:
        raise ImportRefused(f"{where}: the text is broken Unicode") from None
    return str(text)

"""Saves a recording of any PyTorch model as a trace, so that moescope shows what is no text.

Samples take the place of prompts (an image, an episode, an utterance, a batch of one task), and the rows that
a router decided on take the place of tokens (patches, steps, frames; one row where the decision is for the
whole sample).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa

from ...store import Trace, TraceWriter, open_trace
from ...store.schema import Part, RouterEvents, RouterSpec
from ..errors import TracerError
from .record import Routing

OWN = ("id", "text", "language", "group", "parallel_id")


def save_routing(
    routing: Routing,
    out: str | PathLike[str],
    *,
    samples: Sequence[dict[str, Any]] | int,
    model: str = "",
    rows: Sequence[str] | Sequence[Sequence[str]] | None = None,
    passed: Mapping[str, Sequence[int]] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Trace:
    """Write what `record_routing` recorded as a trace.

    Args:
        routing: the recording; the rows of each router must be those of the samples one after another, each
            sample with the same number of rows.
        out: folder of the trace, which must not exist.
        samples: one object a sample with any of id, text, language, group, parallel_id; further fields become
            tags. Or only their number.
        model: name of the model, for display.
        rows: names of the rows of a sample, or of each sample, as the tokens of its text (default: their
            numbers).
        passed: for a stream that not all samples went through, their numbers, rising.
        settings: further entries of the manifest's settings.
    Raises:
        TracerError: a router's rows are no multiple of the samples, or their names are not as many.
    """
    listed: list[dict[str, Any]] = [{} for _ in range(samples)] if isinstance(samples, int) else list(samples)
    those = {stream: np.asarray(numbers, np.int32) for stream, numbers in (passed or {}).items()}
    everyone = np.arange(len(listed), dtype=np.int32)
    events = [_events(routing, spec, those.get(spec.stream, everyone)) for spec in routing.routers]
    length = 1 + max(int(each.position[-1]) for each in events)
    names = _names(rows, length, len(listed))
    card = {"name": model or "a PyTorch model"}
    described = {"name": "samples", "prompts": len(listed)}
    with TraceWriter(
        out, routers=routing.routers, model=card, prompt_set=described,
        settings={"source": "save_routing", **(settings or {})},
    ) as writer:  # fmt: skip
        writer.write(Part(prompts=_prompts(listed), tokens=_tokens(names), events=events))
        writer.finish()
    return open_trace(out)


def _events(routing: Routing, spec: RouterSpec, sample_S: np.ndarray) -> RouterEvents:
    samples = len(sample_S)
    ids_TK = routing.ids(spec.layer, spec.stream).cpu().numpy()
    weights = routing.weights(spec.layer, spec.stream)
    if len(ids_TK) % samples:
        raise TracerError(
            f"{spec.router} decided on {len(ids_TK)} rows, which {samples} samples can't share evenly"
        )
    each = len(ids_TK) // samples
    values = None if weights is None else weights.float().cpu().numpy()
    offsets = None
    if spec.top_k is None:
        used_TK = ids_TK >= 0
        offsets = np.r_[0, used_TK.sum(-1).cumsum()].astype(np.int64)
        ids_TK, values = ids_TK[used_TK], None if values is None else values[used_TK]
    return RouterEvents(
        layer=spec.layer,
        stream=spec.stream,
        prompt=sample_S.repeat(each),
        position=np.tile(np.arange(each, dtype=np.int32), samples),
        experts=ids_TK,
        weights=values,
        offsets=offsets,
    )


def _prompts(samples: Sequence[dict[str, Any]]) -> pa.Table:
    ids = [str(sample.get("id", number)) for number, sample in enumerate(samples)]
    columns = {
        "prompt_id": pa.array(ids),
        "text": pa.array([str(s.get("text", i)) for s, i in zip(samples, ids, strict=True)]),
    }
    for name in ("language", "group", "parallel_id"):
        values = [None if sample.get(name) is None else str(sample[name]) for sample in samples]
        columns[name] = pa.array(values, pa.string())
    tags = [[(name, str(value)) for name, value in sample.items() if name not in OWN] for sample in samples]
    return pa.table(columns | {"tags": pa.array(tags, pa.map_(pa.string(), pa.string()))})


def _names(
    rows: Sequence[str] | Sequence[Sequence[str]] | None, length: int, samples: int
) -> list[list[str]]:
    """Names of the rows of each sample. Raises TracerError where they are not as many as the rows."""
    given: list[Any] = list(rows or map(str, range(length)))
    each = [list(map(str, names)) for names in given] if not isinstance(given[0], str) else [given] * samples
    if len(each) != samples:
        raise TracerError(f"row names were given for {len(each)} samples; there are {samples}")
    wrong = next((names for names in each if len(names) != length), None)
    if wrong is not None:
        raise TracerError(f"{len(wrong)} names were given for the {length} rows of a sample")
    return each


def _tokens(names: list[list[str]]) -> pa.Table:
    count, total = len(names[0]), len(names[0]) * len(names)
    flat = [name for of_sample in names for name in of_sample]
    number = {name: at for at, name in enumerate(dict.fromkeys(flat))}
    return pa.table(
        {
            "prompt": np.arange(len(names), dtype=np.int32).repeat(count),
            "position": np.tile(np.arange(count, dtype=np.int32), len(names)),
            "token_id": np.array([number[name] for name in flat], np.int32),
            "token": flat,
            "phase": ["prefill"] * total,
            "special": np.zeros(total, bool),
            "completion": np.zeros(total, bool),
        }
    )

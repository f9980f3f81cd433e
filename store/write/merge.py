"""One trace of several that were made of one prompt set: by the tasks of a Slurm array, or any other scheduler.

1. Every shard must have been made as the first: the same weights, routers, capture, prompt set and settings. What may
   differ between runs of one trace (`target.MAY_DIFFER`) may differ here, and so may the shard.
2. No prompt may be in two of them.
3. Parts are copied with their keys counted on. Until the end the merged trace is `partial`; `resume` goes on with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import StoreError, plain_os_errors
from ..files.folder import Folder, open_folder
from ..files.lock import is_being_written
from ..files.manifest import Manifest, PartEntry
from ..files.runs import with_parts
from ..files.tables import read_table
from ..files.threads import far_readers
from .ledger import Ledger, Reservation
from .rekey import rekeyed
from .target import first_difference

IDENTITY = ("weights_fingerprint", "config_hash", "name")
"""What tells a model, the best first."""


class MergeRefused(StoreError):
    """The shards are not of one trace."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a merge has done."""

    url: str
    state: str
    """`partial` where prompts of the set are in no shard."""
    shards: int
    prompts: int
    missing: int | None
    """Prompts of the set that are in no shard; None where the set doesn't say how many it has."""
    parts: int
    events: int
    identity: str
    """By what the shards' models were told to be the same, of `IDENTITY`."""


@dataclass(frozen=True)
class _Shard:
    folder: Folder
    manifest: Manifest
    ids: list[list[str]]
    """Of the prompts, by part."""

    @property
    def url(self) -> str:
        return self.folder.url


def merge_shards(
    shards: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """Make one trace of the shards, which stay as they are.

    Args:
        resume: go on with a merge that was interrupted.
        progress: told of (parts, of all parts).
    Raises:
        MergeRefused: they are not of one trace, one is being written, or a prompt is in two of them.
        DamagedPart: a file of a shard is not what its manifest says.
        StoreError: `out` holds something, or can't be written.
    """
    if len(shards) < 2:
        raise MergeRefused("a merge needs at least two shards")
    opened = [_opened(url) for url in shards]
    identity = _check_alike(opened)
    _check_ids(opened)
    first = opened[0].manifest
    total = sum(len(shard.ids) for shard in opened)
    ledger = Ledger(
        out, routers=first.routers, model=first.model, prompt_set=first.prompt_set, settings=_settings(first),
        capture=first.capture, steering=first.steering, weight_type=first.weight_type, noise=first.noise,
        resume=resume,
    )  # fmt: skip
    try:
        ledger.manifest.runs.pop()  # the runs are those of the shards
        done = ledger.committed_prompts
        for count, (shard, entry, ids) in enumerate(_parts(opened), 1):
            if not done.issuperset(ids):
                _copy(ledger, shard, entry, ids)
            if progress is not None:
                progress(count, total)
        missing = _missing(first, len(ledger.committed_prompts))
        if not missing:
            ledger.finish(**_summary(opened))
        return Merged(
            url=ledger.folder.url, state="partial" if missing else "complete", shards=len(opened),
            prompts=len(ledger.committed_prompts), missing=missing, parts=len(ledger.manifest.parts),
            events=sum(entry.events for entry in ledger.manifest.parts), identity=identity,
        )  # fmt: skip
    finally:
        ledger.close()


def _opened(url: str | os.PathLike[str]) -> _Shard:
    folder = open_folder(url)
    manifest = Manifest.load(folder)
    if is_being_written(folder):
        raise MergeRefused(f"{folder.url} is being written: wait until its run has ended")

    def ids(entry: PartEntry) -> list[str]:
        return read_table(folder, entry, "prompts", ["prompt_id"])["prompt_id"].to_pylist()

    each = map if folder.local_path is not None else far_readers().map
    return _Shard(folder, manifest, list(each(ids, manifest.parts)))


def _check_alike(shards: Sequence[_Shard]) -> str:
    """By what their models are told to be the same. Raises MergeRefused."""
    first = shards[0]
    identity = next((name for name in IDENTITY if first.manifest.model.get(name)), None)
    if identity is None:
        raise MergeRefused(f"{first.url} doesn't say of which model it is")
    for shard in shards[1:]:
        here, there = shard.manifest.model.get(identity), first.manifest.model.get(identity)
        if here != there:
            raise MergeRefused(
                f"{shard.url} is of another model than {first.url}: its {identity} is {here!r}"
            )
        difference = first_difference(
            shard.manifest, first.manifest, other=first.url, but=frozenset({"shard"})
        )
        if difference is not None:
            raise MergeRefused(f"{shard.url} is not a shard of the same trace as {first.url}: {difference}")
    return identity


def _check_ids(shards: Sequence[_Shard]) -> None:
    place: dict[str, str] = {}
    for shard in shards:
        for prompt_id in (prompt_id for ids in shard.ids for prompt_id in ids):
            if place.get(prompt_id) == shard.url:
                raise MergeRefused(f"{shard.url} is named twice")
            if prompt_id in place:
                raise MergeRefused(f"prompt {prompt_id!r} is in {place[prompt_id]} and in {shard.url}")
            place[prompt_id] = shard.url


def _parts(shards: Sequence[_Shard]) -> Iterator[tuple[_Shard, PartEntry, list[str]]]:
    for shard in shards:
        for entry, ids in zip(shard.manifest.parts, shard.ids, strict=True):
            yield shard, entry, ids


def _copy(ledger: Ledger, shard: _Shard, entry: PartEntry, ids: list[str]) -> None:
    reservation = ledger.reserve(ids)
    manifest = shard.manifest
    new = rekeyed(
        shard.folder, entry, reservation, routers=manifest.routers, capture=manifest.capture,
        put=partial(_put, ledger, reservation),
    )  # fmt: skip
    run = _run_of(manifest, manifest.parts.index(entry))
    runs = ledger.manifest.runs
    if not runs or _without_place(runs[-1]) != _without_place(run):
        runs.append(run | {"first_part": len(ledger.manifest.parts)})
    ledger.commit(reservation.name, new)


def _put(ledger: Ledger, reservation: Reservation, table: str, data: bytes | memoryview) -> None:
    ledger.check(reservation.name)
    path = f"{table}/{reservation.name}.parquet"
    with plain_os_errors(f"{ledger.folder.url}: {path} could not be written"):
        ledger.folder.put(path, data)


def _run_of(manifest: Manifest, part: int) -> dict[str, Any]:
    """The run that committed a part."""
    return [run for run in with_parts(manifest) if run.get("first_part", 0) <= part][-1]


def _without_place(run: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name != "first_part"}


def _settings(manifest: Manifest) -> dict[str, Any]:
    return {name: value for name, value in manifest.settings.items() if name != "shard"}


def _missing(manifest: Manifest, prompts: int) -> int | None:
    wanted = manifest.prompt_set.get("prompts")
    if not isinstance(wanted, int):
        return None
    limit = manifest.settings.get("limit")
    return max(0, min(wanted, limit if isinstance(limit, int) else wanted) - prompts)


def _summary(shards: Sequence[_Shard]) -> dict[str, Any]:
    """Sums of what the shards say of themselves; seconds are those of all of them together."""
    said = [shard.manifest.summary for shard in shards]
    sums = {
        name: sum(one[name] for one in said)
        for name in ("prompts", "tokens", "events", "nan_tokens", "seconds")
        if all(isinstance(one.get(name), int | float) for one in said)
    }
    return sums | {"shards": len(shards)}

"""A worker: an actor that holds the model and records lot after lot of prompts into the one trace."""

# Ray is not there where the types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ....store.errors import StoreError
from ....store.files.folder import open_folder
from ....store.files.manifest import Manifest, PartEntry
from ....store.schema import Part
from ....store.write.ledger import Answer, Reservation
from ....store.write.plain import ordered_capture
from ....store.write.putter import PartPutter
from ...errors import SteeringError, TracerError
from ...prompts.prompt_set import PromptSet
from ...run.recording import Recording


@dataclass(frozen=True)
class Job:
    """What every worker does."""

    model: str
    load: dict[str, Any]
    """Options of `load_prepared`."""
    recording: dict[str, Any]
    """Options of `Recording`, or of `VllmRecording`."""
    url: str
    part_events: int


def asked(reference: Any) -> Any:
    """The answer of an actor; an exception of the actor is raised here unchanged."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from None


class RemoteLedger:
    """The ledger at the desk, as a `PartPutter` of this worker asks it."""

    def __init__(self, desk: Any, worker: str) -> None:
        self._desk, self._worker = desk, worker
        self._ids: dict[str, Sequence[str]] = {}

    def reserve(self, ids: Sequence[str], owner: str = "") -> Reservation:
        reservation = asked(self._desk.reserve.remote(ids, self._worker))
        self._ids[reservation.name] = ids
        return reservation

    def check(self, name: str) -> None:
        asked(self._desk.check.remote(name))

    def commit(self, name: str, entry: PartEntry) -> Answer:
        answer = asked(self._desk.commit.remote(name, entry, self._worker, self._ids[name]))
        if isinstance(answer, Reservation):
            self._ids[answer.name] = self._ids[name]
        return answer

    def release(self, name: str) -> None:
        asked(self._desk.release.remote(name))


class RemoteWriter:
    """Takes parts as a `TraceWriter` does; the manifest is elsewhere."""

    def __init__(self, job: Job, desk: Any, worker: str, described: dict[str, Any]) -> None:
        self.url = job.url
        self._putter = PartPutter(
            open_folder(job.url), RemoteLedger(desk, worker), routers=described["routers"],
            capture=described["capture"], weight_type=described["weight_type"], owner=worker,
        )  # fmt: skip

    @property
    def committed_prompts(self) -> set[str]:
        """What is dealt is not committed."""
        return set()

    def write(self, part: Part) -> None:
        self._putter.write(part)

    def finish(self, **summary: Any) -> None:
        """The desk ends the trace."""

    def close(self) -> None:
        """The desk holds it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Worker:
    """See the module. `run` may be called again, when there is more to do."""

    def __init__(self, name: str, desk: Any, job: Job, prompts: PromptSet, steering: Any) -> None:
        self._name, self._desk, self._job, self._prompts = name, desk, job, prompts
        self._steering = steering
        self._recording: Recording | None = None

    def run(self) -> int:
        """Records until nothing waits; the number of prompts that this call committed."""
        if self._recording is None:
            self._prepare()
        assert self._recording is not None
        committed, _ = self._recording.run(
            self._writer, self._batches(self._recording), done=self._ran, part_events=self._job.part_events
        )
        return committed.prompts

    def _prepare(self) -> None:
        from ...prepared import load_prepared

        loaded = load_prepared(self._job.model, **self._job.load)
        if self._steering is not None and (problems := self._steering.validate(loaded.model)):
            raise SteeringError(f"the profile does not fit this model: {'; '.join(map(str, problems))}")
        recording = Recording(
            loaded.model, loaded.tokenizer, self._prompts, card=loaded.card, steering=self._steering,
            **self._job.recording,
        )  # fmt: skip
        recording.probe()
        described = described_by(recording)
        created = asked(self._desk.open.remote(self._name, described))
        check_reached(self._job.url, created)
        self._writer = RemoteWriter(self._job, self._desk, self._name, described)
        self._recording = recording

    def _batches(self, recording: Recording) -> Iterator[np.ndarray]:
        while (numbers := asked(self._desk.deal.remote(self._name))) is not None:
            self._lengths = recording.lengths(numbers)
            yield from recording.batches(self._lengths, numbers)

    def _ran(self, numbers: list[int]) -> None:
        # Not waited for: whoever asks for the next lot comes after it.
        self._desk.ran.remote(self._name, {number: int(self._lengths[number]) for number in numbers})


def described_by(recording: Any) -> dict[str, Any]:
    """What the desk takes of a recording's model and settings."""
    described = recording.manifest()
    return described | {
        "routers": list(described["routers"]), "capture": ordered_capture(described["capture"])
    }  # fmt: skip


def check_reached(url: str, created: str) -> None:
    """Raises TracerError where this node does not see the folder of the trace: its parts would be lost."""
    try:
        found = Manifest.load(open_folder(url)).created
    except StoreError:
        found = None
    if found != created:
        raise TracerError(
            f"{socket.gethostname()} does not see the trace in {url}: every node must reach the folder under this "
            "path; or give a URL such as s3://"
        )

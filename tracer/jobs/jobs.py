"""Traces that run in processes of their own, started and followed by the app.

A job is a folder `<trace>.job` beside the trace: what was asked (`job.json`), how far it is (`status.json`,
replaced atomically), its log and its process number. So jobs survive a restart of the app, and a process that was
killed is told from one that works. Importing this module does not import torch.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SUFFIX = ".job"
INPUT = "input"
"""Folder in the job's that holds its own copy of the prompts."""
ENDED = ("complete", "failed", "cancelled", "declined", "died")
GO = "go"
"""File in the job's folder: the answer to a trace that asks whether to go on."""
LOG_TAIL = 4000
TRACE_PROCESS, EXAMPLE_PROCESS = "moescope.tracer.jobs.process", "moescope.sample_data.gallery.process"
"""Modules that are run for a job: a trace of a model, an example of the gallery."""


@dataclass(kw_only=True)
class Status:
    """How far a job is."""

    state: str = "starting"
    """starting, loading, splitting (a dense model into groups), building (an example), measuring (the noise floor),
    running, asking (whether to go on, with what it will cost), complete, failed, cancelled, declined (nothing was
    kept), or died (the process exited without an error message)."""
    layers: int = 0
    """Feed-forward layers that are split; `total_layers` in all."""
    total_layers: int = 0
    prompts: int = 0
    total_prompts: int = 0
    tokens: int = 0
    total_tokens: int = 0
    tokens_per_s: float = 0.0
    eta_s: float | None = None
    """Seconds to the end, by its pace so far: as estimated at `updated` in the file, as of now from `Job.status`."""
    updated: float = 0.0
    """Seconds since 1970 when the process wrote this; it writes nothing while a batch runs."""
    worked: float | None = None
    """0..1 of all work, the tokens that may be generated counted."""
    generating: int = 0
    """Prompts whose answers are being generated: `step` tokens of each so far, `steps` at most."""
    step: int = 0
    steps: int = 0
    bytes: float = 0.0
    """Of the trace in the end, by its first batches; 0: not known."""
    error: str | None = None
    """One line, where the job failed."""
    summary: dict[str, Any] = field(default_factory=dict)
    """What `TraceSummary.to_json` gives, at the end."""
    log_tail: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def share(self) -> float:
        """0..1 of the work."""
        if self.worked is not None:
            return self.worked
        return self.tokens / self.total_tokens if self.total_tokens else 0.0


@dataclass(frozen=True)
class Job:
    """One trace process."""

    folder: Path

    @property
    def asked(self) -> dict[str, Any]:
        """model, prompts, out and options."""
        return json.loads((self.folder / "job.json").read_text(encoding="utf-8"))

    @property
    def out(self) -> Path:
        """The folder of the trace."""
        return self.folder.with_name(self.folder.name.removesuffix(SUFFIX))

    def status(self) -> Status:
        """How far it is now."""
        status = self._written()
        if not status.ended and not self._alive():
            # It may have ended well since the first look.
            status = self._written()
            if not status.ended:
                self._explain(status)
        if status.state == "running" and status.eta_s is not None and status.updated:
            status.eta_s = max(status.eta_s - max(time.time() - status.updated, 0.0), 0.0)
        status.log_tail = self._log_tail()
        return status

    def _written(self) -> Status:
        try:
            return Status(**json.loads((self.folder / "status.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Status()

    def _explain(self, status: Status) -> None:
        """What it means that the process is gone without having said so."""
        if (self.folder / "cancel").exists():
            status.state = "cancelled"
        else:
            status.state = "died"
            status.error = (
                status.error or "the process exited without an error message (killed, or out of memory)"
            )

    def _log_tail(self) -> str:
        try:
            data = (self.folder / "log.txt").read_bytes()
        except OSError:
            return ""
        return data[-LOG_TAIL:].decode("utf-8", "replace")

    def _alive(self) -> bool:
        pid = self._pid()
        with suppress(ChildProcessError, OSError):
            os.waitpid(pid, os.WNOHANG)
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError, OverflowError):
            return False
        return self._is_ours(pid)

    def _pid(self) -> int:
        try:
            return int((self.folder / "pid").read_text())
        except (OSError, ValueError):
            return 2**30

    def _is_ours(self, pid: int) -> bool:
        """Whether the process with this number is still the job, as far as the system tells."""
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return True
        # Empty for an instant while a new process takes over its memory.
        return not command or any(name.encode() in command for name in (TRACE_PROCESS, EXAMPLE_PROCESS))

    def cancel(self, *, wait: float = 0.0) -> None:
        """Ask it to stop; committed prompts are kept. Waits up to `wait` seconds for that."""
        if self._alive():
            # It may be asked before it listens: then its end is no accident either.
            (self.folder / "cancel").touch()
            with suppress(ProcessLookupError):
                os.kill(self._pid(), signal.SIGINT)
        until = time.monotonic() + wait
        while time.monotonic() < until and not self.status().ended:
            time.sleep(0.05)

    def go_on(self) -> None:
        """Say yes to a trace that asks whether it is worth its cost; `cancel` says no."""
        (self.folder / GO).touch()

    def retry(self) -> Job:
        """Start it again with what was asked; a trace that holds committed parts goes on where they end.

        Raises:
            FileExistsError: it still runs.
        """
        asked = self.asked
        if "example" in asked:
            return start_example(asked["example"], asked["out"])
        options = {name: value for name, value in asked["options"].items() if name != "resume"}
        resume = (self.out / "trace.json").exists()
        name = asked.get("prompts_name")
        return start_trace(
            asked["model"], asked["prompts"], asked["out"], prompts_name=name, **options, resume=resume
        )

    def forget(self) -> None:
        """Remove the job's folder, not its trace. Raises RuntimeError while it runs."""
        if not self.status().ended:
            raise RuntimeError(f"{self.out.name} is still being traced")
        shutil.rmtree(self.folder)


def start_trace(
    model: str,
    prompts: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    prompts_name: str | None = None,
    **options: Any,
) -> Job:
    """Start tracing in a process of its own.

    Args:
        model: name or folder, as for `load_model`.
        prompts: a prompt file.
        prompts_name: what the trace calls its prompt set; the file's name for None.
        out: folder of the new trace; the job's folder stands beside it.
        options: those of `prepared.load_prepared`; the rest for `trace_prompts`, `steering` as a profile;
            `noise_prompts`: on so many prompts the noise floor is measured first; `ask`: a trace that will take a
            while asks, after its first batches, whether to go on (`Job.go_on`).
    Raises:
        FileExistsError: that trace is being written by another job, or a link lies there.
    """
    job = _new_job(Path(out).absolute())
    asked = {
        "model": str(model),
        "prompts": str(_own_copy(Path(prompts), job.folder)),
        "prompts_name": prompts_name,
        "out": str(job.out),
        "options": options,
    }
    return _started(job, asked, TRACE_PROCESS)


def start_example(name: str, out: str | os.PathLike[str]) -> Job:
    """Start making an example of the gallery in a process of its own.

    Raises:
        FileExistsError: as for `start_trace`.
    """
    job = _new_job(Path(out).absolute())
    return _started(job, {"example": name, "out": str(job.out)}, EXAMPLE_PROCESS)


def _new_job(out: Path) -> Job:
    """The job of a trace that is to be written, with its folder. Raises FileExistsError where it can't be."""
    if out.is_symlink():
        raise FileExistsError(f"{out} is a symbolic link, and a library never writes a trace through a link")
    job = Job(out.with_name(out.name + SUFFIX))
    if job.folder.exists() and not job.status().ended:
        raise FileExistsError(f"{out.name} is already being traced")
    job.folder.mkdir(parents=True, exist_ok=True)
    return job


def _started(job: Job, asked: dict[str, Any], module: str) -> Job:
    (job.folder / "job.json").write_text(json.dumps(asked, indent=2), encoding="utf-8")
    for said in ("cancel", GO):
        (job.folder / said).unlink(missing_ok=True)
    write_status(job.folder, Status())
    with open(job.folder / "log.txt", "wb") as log:
        # A session of its own: Ctrl-C in the app's terminal does not end the trace.
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(job.folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=job.out.parent,
        )
    (job.folder / "pid").write_text(str(process.pid))
    return job


def _own_copy(prompts: Path, folder: Path) -> Path:
    """The prompt file as it is now, in the job's folder: the run reads what was chosen, whatever becomes of it."""
    copy = folder / INPUT / prompts.name
    if prompts.absolute() != copy:
        shutil.rmtree(folder / INPUT, ignore_errors=True)
        copy.parent.mkdir()
        shutil.copyfile(prompts, copy)
    return copy


def list_jobs(library: str | os.PathLike[str]) -> list[Job]:
    """Jobs whose traces lie in a library, newest first."""
    found = [path for path in Path(library).glob(f"*{SUFFIX}") if (path / "job.json").is_file()]
    return [Job(path) for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def write_status(folder: Path, status: Status) -> None:
    """Replace the status at once: a reader sees the old or the new one."""
    data: Mapping[str, Any] = asdict(status) | {"updated": time.time()}
    temporary = folder / "status.json.new"
    temporary.write_text(json.dumps(data), encoding="utf-8")
    temporary.replace(folder / "status.json")

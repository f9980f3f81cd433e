"""Evaluations that this app follows: the server that holds the model works, a thread here writes how far it is.

So an evaluation goes on and is kept whether or not anyone looks. The server ends with the app that started it; what
was running then is told as lost, with all that is needed to run it again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...store import library_edit
from ...tracer.client import Client, RemoteJob, ServerError, rows_of
from ...tracer.evaluate import saved as files
from ...tracer.evaluate.saved import EvaluationStatus, SavedEvaluation

POLL_S = 0.5
PATIENCE = 10
"""Times in a row that the server may not answer."""


def start(library: Path, client: Client, asked: Mapping[str, Any]) -> SavedEvaluation:
    """Start an evaluation on a server, keep it in the library, and follow it.

    Args:
        asked: as `SavedEvaluation.asked`; `prompts` a `PromptSet` or rows.
    Raises:
        ServerError: the server refuses it; nothing is written.
        OSError: the library can't be written; the server's work is cancelled.
    """
    rows = rows_of(asked["prompts"])
    job = client.evaluate(rows, asked["profile"], **asked["options"])
    try:
        saved = files.new_evaluation(library, {**asked, "prompts": rows})
    except OSError:
        job.cancel()
        raise
    threading.Thread(target=follow, args=(saved, job), name=f"evaluation {saved.id}", daemon=True).start()
    return saved


def again(library: Path, client: Client, saved: SavedEvaluation) -> SavedEvaluation:
    """Start what another evaluation had asked once more, as an evaluation of its own. Raises as `start`."""
    asked = {
        name: value for name, value in saved.asked.items() if name not in ("version", "created", "versions")
    }
    return start(library, client, asked)


def follow(saved: SavedEvaluation, job: RemoteJob) -> None:
    """Write the status of a server's job until it ends, and its result. Ends early where the folder goes away.

    Raises:
        OSError: the folder is there and can't be written.
    """
    try:
        _follow(saved, job)
    except OSError:
        job.cancel()
        if saved.folder.is_dir():
            raise


def _follow(saved: SavedEvaluation, job: RemoteJob) -> None:
    pace, silent, told = Pace(), 0, False
    while saved.folder.is_dir():
        try:
            if saved.cancel_asked and not told:
                job.cancel()
                told = True
            answer = job.status()
        except ServerError as error:
            silent += 1
            if error.status or silent > PATIENCE:
                _end(saved, "failed", f"the model's process does not answer any more: {error}")
                return
        else:
            silent = 0
            if _written(saved, answer, pace):
                return
        time.sleep(POLL_S)


def _written(saved: SavedEvaluation, answer: Mapping[str, Any], pace: Pace) -> bool:
    """Write what the server says; whether it has ended."""
    state = answer["state"]
    if state == "complete":
        saved.keep(answer["result"]["evaluation"], answer["seconds"])
    elif state in ("failed", "cancelled"):
        _end(saved, state, answer["error"])
    else:
        progress = answer["progress"]
        done, total = int(progress.get("done", 0)), int(progress.get("total", 0))
        now = EvaluationStatus(state=state, done=done, total=total, scoring=int(progress.get("scoring", total)),
                               seconds=answer["seconds"])  # fmt: skip
        saved.write_status(replace(now, left_s=pace.left(now)))
        return False
    return True


def _end(saved: SavedEvaluation, state: Any, why: str | None) -> None:
    saved.write_status(replace(saved.status(), state=state, error=why, left_s=None))


class Pace:
    """The time that is left, from the steps of the kind that is being made: a pass over a batch takes another time than
    an answer. The seconds that the work waited for the model do not count. While one step runs the time counts down."""

    def __init__(self) -> None:
        self._first: tuple[bool, int, float] | None = None
        self._last = (0, 0.0)
        """Steps done, and the seconds at which the last of them was seen."""

    def left(self, now: EvaluationStatus) -> float | None:
        """Seconds; of an evaluation with answers only those of its passes while none is written. None before there is
        a step to measure."""
        passing = now.done < now.scoring
        if now.done == 0:
            return None
        if self._first is None or self._first[0] != passing:
            self._first = (passing, now.done, now.seconds)
        if self._last[0] != now.done:
            self._last = (now.done, now.seconds)
        _, done, seconds = self._first
        ends = now.scoring if passing else now.total
        if now.done == done:
            return None
        seen = self._last[1]
        return max((seen - seconds) / (now.done - done) * (ends - now.done) - (now.seconds - seen), 0.0)


def delete(library: Path, saved: SavedEvaluation) -> None:
    """To the bin; one that runs is cancelled first. Raises StoreError."""
    if not saved.status().ended:
        saved.ask_to_cancel()
        _end(saved, "cancelled", None)
    library_edit.folder_to_bin(library, saved.folder)

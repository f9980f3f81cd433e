"""An evaluation as a saved thing: a folder of the library that outlives page, session and app.

`<library>/evaluations/<id>/` holds what was asked (`asked.json`), how far it is (`status.json`, replaced whole) and
what came out (`result.json.gz`: every prompt, every control). Whoever follows the work writes the status at least every
few seconds; one that nobody has written for `SILENT_S` has lost its follower, and with it its model.
Importing this module does not import torch.
"""

from __future__ import annotations

import gzip
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...store.errors import StoreError
from ...store.files.manifest import current_versions
from ...store.files.whole import write_whole
from ..prompts.prompt_set import PromptSet
from .effects import Evaluation

if TYPE_CHECKING:
    from ..steering.profile import Steering

FOLDER = "evaluations"
VERSION = 1
SILENT_S = 30.0
_ASKED, _STATUS, _RESULT, _CANCEL = "asked.json", "status.json", "result.json.gz", "cancel"

State = Literal["waiting", "running", "complete", "failed", "cancelled", "lost"]


@dataclass(frozen=True, kw_only=True)
class EvaluationStatus:
    """How far an evaluation is."""

    state: State = "waiting"
    done: int = 0
    """Steps: forward passes over a batch, then prompts that are answered."""
    total: int = 0
    scoring: int = 0
    """Of the steps, those that are forward passes."""
    seconds: float = 0.0
    """Since it was started, or how long it took."""
    left_s: float | None = None
    """Estimated from the steps so far; None before the first."""
    error: str | None = None
    updated: float = 0.0
    """Seconds since 1970."""

    @property
    def ended(self) -> bool:
        return self.state not in ("waiting", "running")

    @property
    def answers_to_come(self) -> bool:
        """Whether `left_s` leaves out answers, of which none is written yet."""
        return 0 < self.scoring < self.total and self.done <= self.scoring


@dataclass(frozen=True)
class SavedEvaluation:
    """One evaluation in its folder."""

    folder: Path

    @property
    def id(self) -> str:
        """Its name in addresses."""
        return self.folder.name

    @cached_property
    def asked(self) -> dict[str, Any]:
        """name, created, model, profile, prompt_set (name), prompts (rows), by, target, classes, options of the
        request, trace (name, fingerprint). Raises StoreError."""
        try:
            data = json.loads((self.folder / _ASKED).read_text(encoding="utf-8"))
            version = data["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self.folder / _ASKED}: not an evaluation: {error}") from error
        if version > VERSION:
            raise StoreError(f"{self.id}: written by a newer moescope (version {version})")
        return data

    @property
    def name(self) -> str:
        return str(self.asked["name"])

    @property
    def steering(self) -> Steering:
        """The profile that was evaluated."""
        from ..steering.profile import Steering

        return Steering.from_json(self.asked["profile"])

    @property
    def prompts(self) -> PromptSet:
        """The prompts that it was evaluated on."""
        return PromptSet.from_rows(self.asked["prompts"], name=self.asked["prompt_set"])

    def status(self) -> EvaluationStatus:
        """How far it is now."""
        try:
            known = EvaluationStatus(**json.loads((self.folder / _STATUS).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return EvaluationStatus(state="lost", error="its status cannot be read")
        if not known.ended and time.time() - known.updated > SILENT_S:
            why = "the app that ran it, and the model with it, ended before the evaluation did"
            return replace(known, state="lost", left_s=None, error=why)
        return known

    def write_status(self, status: EvaluationStatus) -> None:
        write_whole(
            self.folder / _STATUS, json.dumps(asdict(replace(status, updated=time.time())), allow_nan=False)
        )

    def ask_to_cancel(self) -> None:
        """Whoever follows it stops it."""
        (self.folder / _CANCEL).touch()

    @property
    def cancel_asked(self) -> bool:
        return (self.folder / _CANCEL).exists()

    def keep(self, evaluation: Mapping[str, Any], seconds: float) -> None:
        """Write the result (`Evaluation.to_json`), then that it is complete."""
        text = json.dumps(evaluation, ensure_ascii=False).encode()
        write_whole(self.folder / _RESULT, gzip.compress(text, 6, mtime=0))
        status = self.status()
        self.write_status(
            replace(status, state="complete", seconds=seconds, done=status.total, left_s=None, error=None)
        )

    def evaluation(self) -> Evaluation:
        """What came out. Raises StoreError where it is not complete or damaged."""
        path = self.folder / _RESULT
        try:
            return Evaluation.from_json(json.loads(gzip.decompress(path.read_bytes())))
        except FileNotFoundError:
            raise StoreError(f"{self.id}: the evaluation is not complete") from None
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path}: damaged: {error}") from error

    def run(self, model: Any, tokenizer: Any) -> Evaluation:
        """Evaluate again what was asked; a dose curve is not repeated."""
        from .run import evaluate

        options = self.asked["options"]
        return evaluate(
            model, tokenizer, self.prompts, self.steering,
            controls=options["controls"], max_new_tokens=options["max_new_tokens"],
        )  # fmt: skip


def open_evaluation(folder: str | Path) -> SavedEvaluation:
    """The evaluation in a folder. Raises StoreError where there is none."""
    saved = SavedEvaluation(Path(folder))
    _ = saved.asked
    return saved


def folder_of(library: Path) -> Path:
    """Where a library keeps its evaluations."""
    return library / FOLDER


def find_evaluation(library: Path, id: str) -> SavedEvaluation | None:
    """The evaluation of that id, which may come out of an address; None where there is none."""
    folder = folder_of(library) / id
    plain = Path(id).name == id and not id.startswith(".")
    return SavedEvaluation(folder) if plain and (folder / _ASKED).is_file() else None


def list_evaluations(library: Path) -> list[SavedEvaluation]:
    """The evaluations of a library, newest first; those that can't be read are left out."""
    found = []
    for path in folder_of(library).glob(f"*/{_ASKED}"):
        saved = SavedEvaluation(path.parent)
        try:
            found.append((str(saved.asked["created"]), saved))
        except StoreError:
            continue
    return [saved for _, saved in sorted(found, key=lambda pair: pair[0], reverse=True)]


def new_evaluation(library: Path, asked: Mapping[str, Any]) -> SavedEvaluation:
    """Make the folder of an evaluation that is about to run; `asked` as `SavedEvaluation.asked` gives it.

    Raises:
        OSError: it can't be written.
    """
    created = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() % 10**9 // 1000:06d}Z"
    plain = re.sub(r"[^\w]+", "-", str(asked["name"])).strip("-")[:60] or "evaluation"
    # Random digits: an address must never lead to a later evaluation of the same name.
    saved = SavedEvaluation(folder_of(library) / f"{plain}-{secrets.token_hex(3)}")
    saved.folder.mkdir(parents=True)
    data = {"version": VERSION, "created": created, "versions": current_versions(), **asked}
    write_whole(saved.folder / _ASKED, json.dumps(data, ensure_ascii=False))
    saved.write_status(EvaluationStatus())
    return saved


def seconds_per_unit(earlier: Sequence[SavedEvaluation], model: str) -> float | None:
    """What a character under one steering took in the newest complete evaluations of this model, without answers: their
    median, in seconds. None where there is none."""
    rates = []
    for saved in earlier:
        asked, status = saved.asked, saved.status()
        if asked["model"] != model or status.state != "complete" or asked["options"]["max_new_tokens"]:
            continue
        units = work_of(asked["prompts"], asked["variants"])
        if units and status.seconds:
            rates.append(status.seconds / units)
    newest = sorted(rates[:5])
    return newest[len(newest) // 2] if newest else None


def work_of(rows: Sequence[Mapping[str, Any]], variants: int) -> int:
    """Characters times passes, the unsteered one among them: what an evaluation's time is proportional to."""
    characters = sum(
        len(str(row.get("text") or "")) + len(str(row.get("completion") or ""))
        + sum(map(len, row.get("choices") or ())) for row in rows
    )  # fmt: skip
    return characters * (variants + 1)

"""Notes on experts, kept as one JSON file in the library: they belong to a model's trace and outlive the session.

The file is replaced atomically; of two sessions that write one note at once the later wins.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

FILE = "expert-notes.json"
VERSION = 1
LONGEST = 4000


class NotesError(ValueError):
    """The file of notes cannot be read."""


def load(library: Path, trace: str) -> dict[str, str]:
    """Notes on a trace's experts, by cell (`decoder.2.17`). Raises NotesError."""
    return dict(_read(library).get(trace, {}))


def save(library: Path, trace: str, cell: str, text: str) -> None:
    """Write one note, or take it out where the text is empty. Raises NotesError, OSError."""
    everything = _read(library)
    of_trace = dict(everything.get(trace, {}))
    of_trace.pop(cell, None)
    if text.strip():
        of_trace[cell] = text.strip()[:LONGEST]
    everything[trace] = of_trace
    library.mkdir(parents=True, exist_ok=True)
    data = {"version": VERSION, "notes": {name: notes for name, notes in everything.items() if notes}}
    handle, temporary = tempfile.mkstemp(dir=library, prefix=f".{FILE}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file, ensure_ascii=False, indent=1)
        os.replace(temporary, library / FILE)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(library: Path) -> dict[str, dict[str, str]]:
    path = library / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] > VERSION:
            raise NotesError(f"{path.name} was written by a newer moescope")
        return {
            str(trace): {str(c): str(t) for c, t in notes.items()} for trace, notes in data["notes"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, NotesError):
            raise
        raise NotesError(f"{path.name} cannot be read: {error}") from error

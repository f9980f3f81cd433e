"""A library: a folder whose sub-folders are traces, plus the sample that comes with moescope."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .errors import NotATrace, StoreError
from .files.manifest import MANIFEST_NAME
from .trace import Trace, open_trace

SAMPLE = "sample"
"""What the bundled trace is called."""
LIBRARY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a trace or file of the library may be called by others than the app: no path."""


@dataclass(frozen=True, kw_only=True)
class TraceSummary:
    """One line of a library."""

    url: str
    name: str
    """Name of its folder."""
    error: str | None = None
    """Why it can't be opened; everything below is then empty."""
    state: str = ""
    created: str = ""
    updated: str = ""
    model: str = ""
    prompts: int = 0
    tokens: int = 0
    events: int = 0
    layers: int = 0
    """Routers (layers × streams)."""
    experts: int = 0
    """Experts of the largest router."""
    top_k: int | None = None
    languages: dict[str, int] = field(default_factory=dict)
    """Prompts by language, most first."""
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    """Damaged parts, one line each."""
    sample: bool = False
    """Whether it came with moescope."""
    fingerprint: str = ""
    """Of model weights and prompts: 8 digits that a link carries, so that it never shows another trace of that name."""


def default_library() -> Path:
    """The folder in `MOESCOPE_LIBRARY`, or `traces` in the user's data folder. It need not be there yet."""
    chosen = os.environ.get("MOESCOPE_LIBRARY")
    if chosen:
        return Path(chosen)
    from platformdirs import user_data_dir

    return Path(user_data_dir("moescope", appauthor=False)) / "traces"


def sample_dir() -> Path:
    """Where the sample model, prompt sets and trace lie, in a checkout and in an installed moescope alike."""
    return Path(__file__).resolve().parent.parent / "sample_data"


def trace_address(name: str) -> str:
    """Where the trace lies that a user named: a folder or URL as it stands, else the trace of that name in the default
    library, else the sample for `sample`. What is found nowhere is given back as it stands."""
    if "://" in name or Path(name).name != name or Path(name).exists():
        return name
    if ((folder := default_library() / name) / MANIFEST_NAME).is_file():
        return str(folder)
    sample = sample_dir() / "trace"
    return str(sample) if name == "sample" and (sample / MANIFEST_NAME).is_file() else name


def list_traces(library: str | os.PathLike[str] | None = None) -> list[TraceSummary]:
    """Traces of a library (the default one for None) by name, then the sample. Damaged ones are listed with
    their error. Reads manifests only."""
    folder = Path(library) if library is not None else default_library()
    found = [summarise(path) for path in _traces_in(folder)]
    sample = sample_dir() / "trace"
    if (sample / MANIFEST_NAME).is_file() and sample.resolve() not in {Path(s.url).resolve() for s in found}:
        found.append(summarise(sample, sample=True))
    return found


def trace_named(name: str) -> str | None:
    """The folder of a trace of the default library by its plain name (`sample` for the bundled one); None where there
    is none. A path is no name, so nothing outside the library is found."""
    if not LIBRARY_NAME.fullmatch(name):
        return None
    folder = default_library() / name
    if not (folder / MANIFEST_NAME).is_file() and name == SAMPLE:
        folder = sample_dir() / "trace"
    return str(folder) if (folder / MANIFEST_NAME).is_file() else None


def _traces_in(folder: Path) -> list[Path]:
    try:
        # What begins with a dot is a copy that an import or an export had not ended.
        found = (path for path in folder.iterdir() if not path.name.startswith("."))
        return sorted(path for path in found if (path / MANIFEST_NAME).is_file())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise NotATrace(f"{folder}: the library can't be read: {error.strerror}") from error


def summarise(url: str | os.PathLike[str], *, sample: bool = False) -> TraceSummary:
    """One trace, whether it opens or not."""
    name = Path(url).name if not sample else SAMPLE
    try:
        trace = open_trace(url)
    except StoreError as error:
        return TraceSummary(url=str(url), name=name, error=str(error), sample=sample)
    languages: Counter[str] = Counter()
    for entry in trace.parts:
        languages.update(entry.languages)
    return TraceSummary(
        url=str(url),
        name=name,
        state=trace.state,
        created=trace.manifest.created,
        updated=trace.manifest.updated,
        model=model_name(trace),
        prompts=trace.num_prompts,
        tokens=trace.num_tokens,
        events=trace.num_events,
        layers=len(trace.routers),
        experts=max((spec.num_experts for spec in trace.routers), default=0),
        top_k=max((spec.top_k or 0 for spec in trace.routers), default=0) or None,
        languages=dict(languages.most_common()),
        bytes=sum(file.bytes for entry in trace.parts for file in entry.files.values()),
        problems=[str(problem) for problem in trace.problems],
        sample=sample,
        fingerprint=fingerprint(trace),
    )


def fingerprint(trace: Trace) -> str:
    """8 hexadecimal digits of what was traced: weights, configuration, prompts, steering. Equal for the same recording
    wherever it lies; it does not change while a trace grows."""
    manifest = trace.manifest
    parts = [manifest.model.get(name) for name in ("weights_fingerprint", "config_hash", "name")]
    parts += [manifest.prompt_set.get("fingerprint"), manifest.steering, manifest.created]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:8]


def given_name(trace: Trace) -> str:
    """The name of the traced model; empty for a recording that was imported without one."""
    name = str(trace.manifest.model.get("name") or "")
    imported = (trace.manifest.settings.get("import") or {}).get("format")
    return "" if name == f"imported from {imported}" else name


def model_name(trace: Trace) -> str:
    """What to call the traced model."""
    model = trace.manifest.model
    return str(model.get("name") or model.get("path") or model.get("class") or "unknown model")

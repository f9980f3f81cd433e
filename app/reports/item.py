"""One entry of a report. It holds what it shows (specification, numbers, words), so it stands without its trace."""

from __future__ import annotations

import base64
import io
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from ...store import Trace
from ...store.library import given_name
from ...store.tables import storable
from .. import export
from ..text.literal import without_folders

KINDS = ("figure", "table", "note")
NO_NAME = "unnamed model"
"""What the model of an import is called whose file names none."""
MOST_BYTES = 5_000_000
"""Of numbers kept with one entry, compressed; a larger table is left out, and the entry says so."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A figure, a table, or a note."""

    kind: str
    title: str
    say: str = ""
    """What it shows in words."""
    caption: str = ""
    """Written by the user."""
    about: dict[str, Any] = field(default_factory=dict)
    """What a reader must know of its origin: see `origin`."""
    spec: dict[str, Any] | None = None
    """Vega-Lite, drawn for paper; None for tables and notes."""
    numbers: str = ""
    """The table behind it: Parquet in base64; empty where there is none."""
    python: str = ""
    files: dict[str, Any] = field(default_factory=dict)
    """JSON files that belong to it, by name: the steering profile of an evaluation."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises ValueError where the data is not that of an entry."""
        if data.get("kind") not in KINDS or not isinstance(data.get("title"), str):
            raise ValueError("an entry of a report has a kind and a title")
        known = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        # It becomes part of a page's script and anchors: only what was made here is taken.
        if not re.fullmatch(r"[0-9a-f]{12}", str(known.get("id"))):
            known.pop("id", None)
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> pa.Table | None:
        """The numbers behind it."""
        return pq.read_table(io.BytesIO(base64.b64decode(self.numbers))) if self.numbers else None


def packed(table: pa.Table | None) -> str:
    """A table as an entry keeps it; empty where there is none, or it is too large."""
    if table is None:
        return ""
    buffer = io.BytesIO()
    pq.write_table(storable(export.unique_names(table)), buffer, compression="zstd")
    data = buffer.getvalue()
    return base64.b64encode(data).decode() if len(data) <= MOST_BYTES else ""


def origin(trace: Trace, name: str, chosen: str = "") -> dict[str, Any]:
    """What a reader must know of where a figure comes from. Holds no path of this machine.

    Args:
        name: what the trace is called here.
        chosen: the choice of prompts, tokens and layers, in words.
    """
    manifest = trace.manifest
    experts = sorted({spec.num_experts for spec in trace.routers})
    imported = (manifest.settings.get("import") or {}).get("format")
    model = given_name(trace) or ("" if imported else str(manifest.model.get("class") or "unknown model"))
    return {
        "trace": name,
        "model": without_folders(model) if model else NO_NAME,
        "architecture": str(manifest.model.get("architecture") or ""),
        "imported": imported,
        "weights": str(manifest.model.get("weights_fingerprint") or "")[:16],
        "prompt set": without_folders(str(manifest.prompt_set.get("name") or "")),
        "prompts fingerprint": str(manifest.prompt_set.get("fingerprint") or "")[:16],
        "prompts": trace.num_prompts,
        "tokens": trace.num_tokens,
        "routers": f"{len(trace.routers)} × {'/'.join(map(str, experts))} experts",
        "chosen": chosen,
        "steering": (manifest.steering or {}).get("name") if manifest.steering else None,
        "state": trace.state,
        "settings": _without_folders(dict(manifest.settings)),
        "versions": dict(manifest.versions),
    }


def _without_folders(value: Any) -> Any:
    """Settings as they may leave the machine: files by their names."""
    if isinstance(value, Mapping):
        return {name: _without_folders(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folders(one) for one in value]
    return without_folders(value) if isinstance(value, str) else value


def without_paths(python: str, name: str, others: Mapping[str, str] | None = None) -> str:
    """Code for a notebook in which addresses of traces and evaluations are replaced by their names: a report is read
    elsewhere.

    Args:
        name: what the trace is called here; empty where the code opens none.
        others: address of any other trace that it opens → what that is called.
    """

    def opened(found: re.Match[str]) -> str:
        return f"open_trace({(others or {}).get(found[2], name)!r})"

    named = re.sub(r"open_trace\((['\"])(.*?)\1\)", opened, python) if name else python
    return re.sub(r"(['\"])/[^'\"]*/evaluations/([\w-]+)\1", r"\1\2\1", named)

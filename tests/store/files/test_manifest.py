"""`trace.json` is believed only where it is what was written, and only where it agrees with itself and its files."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moescope.store import TraceWriter, open_trace
from moescope.store.errors import DamagedTrace
from moescope.store.files.manifest import Manifest, checksum_of
from moescope.store.write.synthetic import Synthetic, write_synthetic

PLAN = Synthetic(prompts=10, tokens_per_prompt=8, layers=3, experts=6, top_k=2, part_tokens=30)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_synthetic(tmp_path / "t", PLAN)
    return tmp_path / "t" / "trace.json"


def put(entries: dict[str, Any], *way: Any, value: Any) -> dict[str, Any]:
    """The entries with one of them changed."""
    changed = at = copy.deepcopy(entries)
    for step in way[:-1]:
        at = at[step]
    at[way[-1]] = value
    return changed


def test_the_checksum_is_of_the_canonical_form(place: Path) -> None:
    data = json.loads(place.read_text())
    given = data.pop("checksum")
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert given == hashlib.sha256(canonical.encode()).hexdigest()
    backwards = dict(reversed(list((data | {"checksum": given}).items())))
    place.write_text(json.dumps(backwards, indent=7))  # another layout is the same manifest
    assert open_trace(place.parent).verify() == []


CHANGES = {
    "layer": (("routers", 2, "layer"), 9),
    "num_experts": (("routers", 0, "num_experts"), 7),
    "first_prompt": (("parts", 1, "first_prompt"), 0),
    "events": (("parts", 0, "events"), 1),
    "state": (("state",), "partial"),
    "model": (("model", "name"), "another"),
    "unknown": (("tomorrow",), 1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_manifest_is_refused(place: Path, change: tuple) -> None:
    way, value = change
    data = json.loads(place.read_text())
    place.write_text(json.dumps(put(data, *way, value=value)))
    with pytest.raises(DamagedTrace, match="was changed after it was written"):
        open_trace(place.parent)


WRONG = {
    "a gap": (("parts", 1, "first_prompt"), 99),
    "an overlap": (("parts", 1, "first_prompt"), 0),
    "a part twice": (("parts", 1, "name"), "part-00000"),
    "events": (("parts", 0, "events"), 1),
    "prompts": (("parts", 0, "prompts"), 1),
    "true prompts": (("parts", 0, "prompts"), True),
    "tokens as text": (("parts", 0, "tokens"), "3"),
    "languages": (("parts", 0, "languages"), {"en": 10_000}),
    "rows": (("parts", 0, "files", "tokens", "rows"), -1),
    "sha256": (("parts", 0, "files", "tokens", "sha256"), "../x"),
    "top_k": (("routers", 0, "top_k"), 1.5),
    "a layer below 0": (("routers", 0, "layer"), -1),
    "a layer beyond int32": (("routers", 0, "layer"), 2**31),
    "a layer of half": (("routers", 0, "layer"), 0.5),
    "no experts": (("routers", 0, "num_experts"), 0),
    "a router twice": (("routers", 1, "layer"), 0),
    "steerable": (("routers", 0, "steerable"), "yes"),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_one_that_contradicts_itself_is_refused_whoever_wrote_it(place: Path, change: tuple) -> None:
    way, value = change
    data = put(json.loads(place.read_text()), *way, value=value)
    data["checksum"] = checksum_of(data)
    with pytest.raises(DamagedTrace, match="damaged"):
        Manifest.from_json(data)


OTHER_ROUTERS: dict[str, Callable[[dict], dict]] = {
    "layer 9": lambda data: put(data, "routers", 2, "layer", value=9),
    "7 experts": lambda data: put(data, "routers", 2, "num_experts", value=7),
    "stream": lambda data: put(data, "routers", 2, "stream", value="encoder"),
}


@pytest.mark.parametrize("change", OTHER_ROUTERS.values(), ids=OTHER_ROUTERS)
def test_a_trace_of_before_is_read_and_its_routers_are_compared_with_its_files(place: Path, change) -> None:
    data = {name: value for name, value in json.loads(place.read_text()).items() if name != "checksum"}
    place.write_text(json.dumps(data))
    trace = open_trace(place.parent)
    assert trace.manifest.checksum is None
    assert trace.verify() == []
    place.write_text(json.dumps(change(data)))
    problems = open_trace(place.parent).verify()
    assert problems
    assert all("trace.json" in problem.message for problem in problems)


def test_resuming_a_trace_of_before_gives_it_a_checksum(place: Path) -> None:
    data = json.loads(place.read_text())
    del data["checksum"]
    place.write_text(json.dumps(data))
    found = open_trace(place.parent).manifest
    kept = {name: getattr(found, name) for name in ("routers", "model", "prompt_set", "settings", "capture")}
    with TraceWriter(place.parent, resume=True, **kept) as out:
        out.finish()
    after = json.loads(place.read_text())
    assert after["checksum"] == checksum_of(after)

"""The runs that a trace came about by: the first, and those that resumed it, perhaps otherwise.

A resumed run may have other batches or another device (`write.target.MAY_DIFFER`). Both round otherwise, which changes
an expert where two are nearly equal (`store.noise`). So the manifest says which parts were made how.
"""

from __future__ import annotations

from typing import Any

from .manifest import Manifest

ROUNDS = ("batch_tokens", "batch_size", "device", "attention", "parallel")
"""Entries of `settings` and `model` that change how sums are rounded."""
NOT_SAID = {"parallel": "one process"}
"""What it means that a run does not tell an entry."""
TOLD = (*ROUNDS, "limit")


def run_of(wanted: Manifest, first_part: int) -> dict[str, Any]:
    """A run as the manifest tells it."""
    known = wanted.model | wanted.settings
    told = {name: known[name] for name in TOLD if known.get(name) is not None}
    return {"began": wanted.created, "first_part": first_part, **told, "versions": wanted.versions}


def with_parts(manifest: Manifest) -> list[dict[str, Any]]:
    """Earlier runs that committed something. Of a trace made before runs were noted, one that is told by the entries
    of the manifest."""
    parts = len(manifest.parts)
    earlier = manifest.runs or ([run_of(manifest, 0)] if parts else [])
    firsts = [run.get("first_part") for run in earlier] + [parts]
    return [run for run, end in zip(earlier, firsts[1:], strict=True) if run.get("first_part") != end]


def differences(manifest: Manifest) -> str:
    """What runs did otherwise, as `batch_tokens 8192, then 512`; empty where nothing."""
    told = []
    for name in ROUNDS:
        values = [_said(run.get(name, NOT_SAID.get(name, "unknown"))) for run in manifest.runs]
        if len(set(values)) > 1:
            told.append(f"{name} {', then '.join(values)}")
    return "; ".join(told)


def _said(value: Any) -> str:
    return " ".join(f"{name} {one}" for name, one in value.items()) if isinstance(value, dict) else str(value)

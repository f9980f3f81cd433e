"""The noise floor in a manifest: it comes back as it was written, and a comparison takes the larger of two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moescope.store import TraceWriter, open_trace
from moescope.store.errors import DamagedTrace
from moescope.store.noise import Noise, Variation, noise_between, noise_of


def floor(sets: int, *, cause: str = "batch", dtype: str = "bfloat16") -> Noise:
    one = Variation(
        cause=cause, base="1 prompt a batch", other="8,192 tokens a batch", events=400, sets=sets, order=8,
        weights=800, weights_changed=40, largest_weight_change=0.01, low=0.0, high=0.02,
    )  # fmt: skip
    return Noise(dtype=dtype, device="cpu", prompts=6, tokens=100, variations=(one,), notes=("no GPU",))


def write(path: Path, noise: Noise | None, **options: Any) -> None:
    with TraceWriter(
        path, routers=[], model={}, prompt_set={}, settings={},
        noise=None if noise is None else noise.to_json(), **options,
    ) as writer:  # fmt: skip
        writer.finish()


def test_a_floor_comes_back_from_the_manifest_and_survives_resuming(tmp_path: Path) -> None:
    write(tmp_path / "t", floor(4))
    write(tmp_path / "t", None, resume=True)
    noise = noise_of(open_trace(tmp_path / "t"))
    assert noise == floor(4)
    assert noise is not None
    (row,) = noise.table().to_pylist()
    assert (row["set_share"], row["order_share"], row["weight_share"]) == (0.01, 0.02, 0.05)
    assert noise.of("dtype") is None


def test_a_trace_of_before_has_no_floor(tmp_path: Path) -> None:
    write(tmp_path / "t", None)
    path = tmp_path / "t" / "trace.json"
    old = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("noise", "checksum")}
    path.write_text(json.dumps(old))
    trace = open_trace(tmp_path / "t")
    assert noise_of(trace) is None
    rows, (note,) = noise_between(trace, trace)
    assert rows == []
    assert "--noise" in note


def test_a_damaged_floor_is_named(tmp_path: Path) -> None:
    write(tmp_path / "t", floor(4))
    path = tmp_path / "t" / "trace.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"noise": {"variations": 3}, "checksum": None}))
    with pytest.raises(DamagedTrace, match="damaged"):
        open_trace(tmp_path / "t")


def test_a_comparison_takes_the_larger_floor_of_each_cause() -> None:
    a, b = ({"noise": one.to_json()} for one in (floor(4), floor(7, dtype="float32")))
    rows, notes = noise_between(a, b)
    assert [(row.cause, row.sets) for row in rows] == [("batch", 7)]
    assert "bfloat16 and float32" in notes[0]
    rows, notes = noise_between({"noise": floor(2, cause="dtype").to_json()}, {})
    assert [row.cause for row in rows] == ["dtype"]
    assert "Only one" in notes[0]

"""2,100 malformed files: each is read, or refused in one line; never a traceback, never a half-written trace."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moescope.store import StoreError, open_trace
from moescope.store.importers import run

ROWS = [
    {"sequence": "s", "step": 0, "layer": 0, "expert": 3, "weight": 0.25, "token": "a", "language": "en"},
    {"sequence": "s", "step": 0, "layer": 0, "expert": 1, "weight": 0.75, "token": "a", "language": "en"},
    {"sequence": "t", "step": 4, "layer": 2, "expert": 0, "weight": 1.0, "token": "日", "language": "ja"},
]
REQUEST = {
    "request_id": "r",
    "prompt_token_ids": [5, 6],
    "token_ids": [7],
    "prompt_routed_experts": [[[3, 1]], [[0, 2]]],
    "routed_experts": [[[1, 0]]],
}
RESPONSE = {
    "text": "x",
    "input_ids": [1, 2],
    "output_ids": [3],
    "meta_info": {"id": "a", "prompt_tokens": 2, "routed_experts": "AQAAAAIAAAADAAAAAAAAAA=="},
}

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from(
        [-1, 0, 1, 255, 256, 2**31 - 1, 2**31, 1e308, -0.0, 0.5, "", "[", "[1,2]", "NaN", "\x00"]
    ),
    st.floats(allow_nan=False),
    st.text(max_size=6),
    st.text(st.characters(categories=["Cs", "Lu"]), max_size=3),
    st.lists(st.integers(-3, 300), max_size=4),
    st.lists(st.lists(st.lists(st.integers(-3, 300), max_size=3), max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["base64", "dtype", "shape", "x"]), st.just("AAAA"), max_size=3),
)


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        FOLDER[0] = Path(path)
        yield FOLDER[0]


FOLDER = [Path()]


def attempt(name: str, suffix: str, content: bytes, **options: Any) -> None:
    path = FOLDER[0] / f"input{suffix}"
    out = FOLDER[0] / "out"
    path.write_bytes(content)
    refusal = None
    try:
        run(name, path, out, **options)
    except StoreError as error:
        refusal = str(error)
    left = sorted(p.name for p in FOLDER[0].iterdir())
    path.unlink()
    if refusal is None:
        trace = open_trace(out)
        assert (trace.state, trace.problems) == ("complete", [])
        trace.events()
        trace.view("load")
        shutil.rmtree(out)
    else:
        assert left == [path.name]
        assert refusal.strip()
        assert "\n" not in refusal


def fuzz(examples: int):
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "drop", "double"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(
                st.binary(min_size=1, max_size=4) | st.sampled_from([b'"', b"\n", b",", b"\x00"])
            )
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 8))]
        else:
            data[at:at] = data[at : at + 20]
    return bytes(data)


@st.composite
def damaged_json(draw: st.DrawFn, value: Any) -> Any:
    """A copy with one entry, at any depth, replaced, removed or added."""
    copy = json.loads(json.dumps(value))
    at = copy
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = draw(st.sampled_from(keys))
        if isinstance(at[key], dict | list) and at[key] and draw(st.booleans()):
            at = at[key]
            continue
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "remove":
            del at[key]
        elif action == "replace":
            at[key] = draw(VALUES)
        elif isinstance(at, dict):
            at[draw(st.text(max_size=4))] = draw(VALUES)
        else:
            at.append(draw(VALUES))
        return copy


def csv_bytes() -> bytes:
    lines = [",".join(ROWS[0]), *(",".join(map(str, row.values())) for row in ROWS)]
    return "\n".join(lines).encode()


def saved(value: Any) -> bytes:
    sink = io.BytesIO()
    torch.save(value, sink)
    return sink.getvalue()


def recorder_file() -> dict[str, Any]:
    record = {
        "input_ids": [1, 2],
        "positions": [0, 1],
        "extend_seq_lens": [2],
        "forward_mode": 1,
        "topk_ids_of_layer": torch.tensor([[[1, 0, -1], [2, 1, -1]]], dtype=torch.int32),
    }
    return {
        "records": [record, record | {"forward_mode": 2}],
        "last_physical_to_logical_map": torch.tensor([[0, 1, 2]]),
    }


@fuzz(450)
@given(damaged_bytes(csv_bytes()))
def test_csv(content: bytes) -> None:
    attempt("neutral", ".csv", content)


@fuzz(350)
@given(damaged_json(ROWS))
def test_jsonl_rows(rows: list) -> None:
    attempt("neutral", ".jsonl", "\n".join(map(json.dumps, rows)).encode())


@fuzz(200)
@given(damaged_bytes("\n".join(map(json.dumps, ROWS)).encode()))
def test_jsonl_bytes(content: bytes) -> None:
    attempt("neutral", ".jsonl", content)


@fuzz(350)
@given(damaged_json([REQUEST, REQUEST | {"request_id": "s"}]))
def test_vllm_requests(rows: list) -> None:
    attempt("vllm", ".jsonl", "\n".join(map(json.dumps, rows)).encode())


@fuzz(250)
@given(damaged_json([RESPONSE]))
def test_sglang_responses(rows: list) -> None:
    attempt("sglang", ".jsonl", "\n".join(map(json.dumps, rows)).encode(), num_layers=1, top_k=2)


def npz_bytes() -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **{f"0/{name}": np.array(value) for name, value in REQUEST.items()})  # pyright: ignore
    return sink.getvalue()


@fuzz(150)
@given(damaged_bytes(npz_bytes()))
def test_npz_bytes(content: bytes) -> None:
    attempt("vllm", ".npz", content)


def parquet_bytes() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, write_page_checksum=True)
    return sink.getvalue()


@fuzz(150)
@given(damaged_bytes(parquet_bytes()))
def test_parquet_bytes(content: bytes) -> None:
    attempt("neutral", ".parquet", content)


@fuzz(100)
@given(damaged_bytes(saved(recorder_file())))
def test_pt_bytes(content: bytes) -> None:
    attempt("sglang", ".pt", content)


@fuzz(100)
@given(st.data())
def test_pt_content(data: st.DataObject) -> None:
    content = recorder_file()
    at: Any = content
    while isinstance(at, dict | list):
        key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else list(range(len(at)))))
        if not isinstance(at[key], dict | list) or data.draw(st.booleans()):
            tensors = st.sampled_from(
                [torch.zeros(2), torch.ones(1, 2, 3), torch.full((1, 2, 2), 9, dtype=torch.int32)]
            )
            at[key] = data.draw(VALUES | tensors)
            break
        at = at[key]
    with contextlib.suppress(UnicodeEncodeError):
        attempt("sglang", ".pt", saved(content))

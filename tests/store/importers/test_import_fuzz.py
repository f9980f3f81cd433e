"""3,000 malformed files: each is read, or refused in one line; never a traceback, never a half-written trace.

`SEEDS` holds a good file for each format and suffix of the registry; a format without one fails a test.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from moescope.store import StoreError, open_trace
from moescope.store.importers import run
from moescope.store.importers.formats import FORMATS

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
        [
            -1,
            0,
            1,
            255,
            256,
            2**31 - 1,
            2**31,
            2**32,
            2**63,
            1e308,
            -0.0,
            0.5,
            "",
            "[",
            "[1,2]",
            "NaN",
            "\x00",
            "1_0",
            "²",
            "9" * 400,
            "3.0",
            "1e5",
            [[[0, 0]]],
            [[[1, 1]], [[1, 1]]],
        ]
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


def attempt(name: str, suffix: str, content: bytes, **options: Any) -> str | None:
    """Imports the file; why it was refused, or None."""
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
        try:
            check_trace(out)
        finally:
            shutil.rmtree(out)
    else:
        assert left == [path.name]
        assert refusal.strip()
        assert "\n" not in refusal
        assert len(refusal) < 1000
    return refusal


def check_trace(out: Path) -> None:
    """A trace that can be read; a view of 2^31 experts, the largest id that an event may have, may be refused."""
    trace = open_trace(out)
    assert (trace.state, trace.problems) == ("complete", [])
    assert all(spec.num_experts > 0 for spec in trace.routers)
    trace.events()
    largest = max(spec.num_experts for spec in trace.routers)
    refused = ""
    try:
        trace.view("load")
    except StoreError as error:
        refused = str(error)
    assert not refused or (largest > 2**20 and "too many to show at once" in refused), refused


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


COUNTS = [
    {"sequence": "s", "layer": 0, "expert": 3, "count": 4, "tokens": 6, "weight_sum": 1.5, "language": "en"},
    {"sequence": "s", "layer": 0, "expert": 1, "count": 6, "tokens": 6, "weight_sum": 2.5, "language": "en"},
    {"sequence": "t", "layer": 2, "expert": 0, "count": 2, "tokens": 2, "weight_sum": 1.0, "group": "x"},
]
LISTED = [
    {"step": 1, "layer": 2, "tokens_per_expert": [3, 0, 1]},
    {"step": 1, "layer": 3, "tokens_per_expert": [1, 3, 0]},
]


def lines_of(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def table_of(rows: list[dict[str, Any]], mark: str) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[str(row.get(name, "")) for name in names] for row in rows]
    return "\n".join(mark.join(row) for row in [names, *cells]).encode()


def parquet_of(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, write_page_checksum=True)
    return sink.getvalue()


def npz_of(**arrays: Any) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **{name: np.array(value) for name, value in arrays.items()})  # pyright: ignore
    return sink.getvalue()


def imatrix() -> bytes:
    """What llama-imatrix writes, by the authors' own library."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "i.gguf"
        writer = gguf.GGUFWriter(path, "imatrix")
        writer.add_array("imatrix.datasets", ["a.txt"])
        writer.add_tensor("blk.0.ffn_gate_inp.weight.counts", np.array([[4]], np.float32))
        writer.add_tensor("blk.0.ffn_up_exps.weight.counts", np.array([[4], [1], [3]], np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


REQUESTS = [REQUEST, REQUEST | {"request_id": "s"}]
ROUTING = {
    "ids": torch.tensor([[[3, 1], [0, 2]], [[1, 0], [2, -1]], [[2, 3], [1, 0]]]),
    "weights": torch.tensor([[[0.7, 0.3], [0.6, 0.4]], [[0.9, 0.1], [1.0, 0.0]], [[0.8, 0.2], [0.5, 0.5]]]),
    "lengths": torch.tensor([2, 1]),
    "layers": torch.tensor([1, 4]),
    "token_ids": torch.tensor([5, 6, 7]),
    "probabilities": torch.full((3, 2, 4), 0.25),
}
SEQUENCES = [{"prompt_id": "a", "language": "en", "text": "Hi there", "robot": "r1"}, {"language": "de"}]
_COUNT_ARRAYS = {"A": [[[4, 1, 3]]], "G": [[[1.0, 0.5, 2.0]]], "tokens": [4], "languages": ["en"]}
_SHAPE = {"num_layers": 1, "top_k": 2}
SEEDS: dict[tuple[str, str], tuple[bytes, dict[str, Any]]] = {
    ("neutral", ".csv"): (table_of(ROWS, ","), {}),
    ("neutral", ".tsv"): (table_of(ROWS, "\t"), {}),
    ("neutral", ".json"): (json.dumps(ROWS).encode(), {}),
    ("neutral", ".jsonl"): (lines_of(ROWS), {}),
    ("neutral", ".ndjson"): (lines_of(ROWS), {}),
    ("neutral", ".parquet"): (parquet_of(ROWS), {}),
    ("vllm", ".json"): (json.dumps(REQUESTS).encode(), {}),
    ("vllm", ".jsonl"): (lines_of(REQUESTS), {}),
    ("vllm", ".ndjson"): (lines_of(REQUESTS), {}),
    ("vllm", ".parquet"): (parquet_of(REQUESTS), {}),
    ("vllm", ".npz"): (npz_of(**{f"0/{name}": value for name, value in REQUEST.items()}), {}),
    ("sglang", ".pt"): (saved(recorder_file()), {}),
    ("sglang", ".json"): (json.dumps([RESPONSE]).encode(), _SHAPE),
    ("sglang", ".jsonl"): (lines_of([RESPONSE]), _SHAPE),
    ("sglang", ".ndjson"): (lines_of([RESPONSE]), _SHAPE),
    ("counts", ".csv"): (table_of(COUNTS, ","), {}),
    ("counts", ".tsv"): (table_of(COUNTS, "\t"), {}),
    ("counts", ".json"): (json.dumps(COUNTS).encode(), {}),
    ("counts", ".jsonl"): (lines_of(LISTED), {"top_k": 1}),
    ("counts", ".ndjson"): (lines_of(LISTED), {}),
    ("counts", ".parquet"): (parquet_of(COUNTS), {}),
    ("counts", ".npz"): (npz_of(**_COUNT_ARRAYS), {}),
    ("counts", ".pt"): (saved({"arxiv": torch.tensor([[3, 1, 2]]), "book": torch.tensor([[1, 2, 3]])}), {}),
    ("counts", ".gguf"): (imatrix(), {}),
    ("tensors", ".safetensors"): (save(ROUTING, {"sequences": json.dumps(SEQUENCES), "model": "m"}), {}),
}
_EXAMPLES = {".safetensors": 250, ".csv": 250, ".parquet": 120, ".npz": 120, ".pt": 80, ".gguf": 250}


def test_every_format_of_the_registry_is_fuzzed() -> None:
    listed = {(name, suffix) for name, row in FORMATS.items() for suffix in row.suffixes}
    assert set(SEEDS) == listed, "a registered format needs a good file in SEEDS for each suffix"


@pytest.mark.parametrize(("name", "suffix"), SEEDS)
def test_a_good_file_is_read_and_no_damaged_one_does_harm(name: str, suffix: str) -> None:
    content, options = SEEDS[name, suffix]
    assert attempt(name, suffix, content, **options) is None

    @fuzz(_EXAMPLES.get(suffix, 50))
    @given(damaged_bytes(content))
    def damage(data: bytes) -> None:
        attempt(name, suffix, data, **options)

    damage()


@fuzz(250)
@given(damaged_json(COUNTS + LISTED))
def test_tables_of_counts(rows: list) -> None:
    attempt("counts", ".jsonl", lines_of(rows))


@fuzz(100)
@given(st.data())
def test_pt_counts(data: st.DataObject) -> None:
    tensors = st.sampled_from(
        [torch.zeros(2, 3), torch.ones(1, 2, 3), torch.zeros(0, 3), torch.zeros(2, 3).to_sparse(),
         torch.full((2, 3), 2**40), torch.tensor([[0.5, 1.0]]), torch.tensor([[1, -1]]), torch.tensor(3),
         torch.tensor([[1.0, float("nan")]])]
    )  # fmt: skip
    layers = st.dictionaries(st.integers(-1, 3), tensors, max_size=2)
    content = data.draw(
        tensors
        | st.dictionaries(
            st.sampled_from(["A", "logical_count", "x", "layers"]), tensors | VALUES, max_size=3
        )
        | st.dictionaries(st.text(max_size=3), layers, max_size=2)
    )
    name, options = data.draw(
        st.sampled_from([("counts", {}), ("counts", {"top_k": 2}), ("sglang", {"top_k": 2})])
    )
    with contextlib.suppress(UnicodeEncodeError):
        attempt(name, ".pt", saved(content), **options)


@fuzz(60)
@given(
    st.lists(st.integers(-2, 2**33) | st.integers(0, 5), min_size=1, max_size=3),
    st.sampled_from(["vllm", "sglang"]),
)
def test_numbers_of_layers(layers: list[int], name: str) -> None:
    content, options = SEEDS[name, ".jsonl"]
    attempt(name, ".jsonl", content, layers=layers, **options)


@fuzz(350)
@given(damaged_json(ROWS))
def test_jsonl_rows(rows: list) -> None:
    attempt("neutral", ".jsonl", "\n".join(map(json.dumps, rows)).encode())


@fuzz(350)
@given(damaged_json([REQUEST, REQUEST | {"request_id": "s"}]))
def test_vllm_requests(rows: list) -> None:
    attempt("vllm", ".jsonl", "\n".join(map(json.dumps, rows)).encode())


@fuzz(250)
@given(damaged_json([RESPONSE]))
def test_sglang_responses(rows: list) -> None:
    attempt("sglang", ".jsonl", "\n".join(map(json.dumps, rows)).encode(), num_layers=1, top_k=2)


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


@fuzz(150)
@given(st.data())
def test_tensors_of_other_shapes_and_types(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*ROUTING, "other"]))
    odd = st.sampled_from(
        [torch.zeros(2), torch.ones(3, 2, 2), torch.zeros(3, 2, 4), torch.full((3, 2, 2), 9), torch.zeros(0, 2, 2),
         torch.full((3, 2, 2), float("nan")), torch.full((3, 2, 2), -2), torch.zeros(0), torch.tensor([[[0]]]),
         torch.zeros(3, 2, 2, dtype=torch.bool), torch.full((2,), 2**40), torch.ones(3, 2, 2, dtype=torch.bfloat16)]
    )  # fmt: skip
    tensors = ROUTING | {name: data.draw(odd)}
    dropped = data.draw(st.sets(st.sampled_from(list(ROUTING)), max_size=3))
    listed = data.draw(
        st.sampled_from(["null", "[", "[{}]", "[1, 2]", json.dumps(SEQUENCES), '[{"a": []}, {}]'])
    )
    content = save(
        {key: value for key, value in tensors.items() if key not in dropped}, {"sequences": listed}
    )
    attempt("tensors", ".safetensors", content)

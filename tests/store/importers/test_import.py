"""Imports: known files give known traces; what is not right is refused with file, row and column."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from moescope.store import StoreError, Trace, open_trace
from moescope.store.errors import ImportRefused, TraceExists
from moescope.store.importers import parameters, run

CSV = """sequence,step,layer,expert,weight,token,language,robot
walk,0,0,3,0.25,a,en,r1
walk,0,0,1,0.75,a,en,r1
walk,0,2,0,1,a,en,r1
walk,5,0,2,0.5,b,en,r1
"run, fast",0,0,1,0.5,c,,r2
"""


def imported(name: str, path: Path, **options) -> Trace:
    out = path.with_suffix(".trace")
    result = run(name, path, out, **options)
    trace = open_trace(out)
    assert trace.state == "complete"
    assert trace.verify() == []
    assert (result.prompts, result.tokens, result.events) == (
        trace.num_prompts,
        trace.num_tokens,
        trace.num_events,
    )
    return trace


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_neutral_csv(tmp_path: Path) -> None:
    trace = imported("neutral", written(tmp_path / "events.csv", CSV))
    assert [(r.layer, r.stream, r.num_experts, r.top_k) for r in trace.routers] == [
        (0, "decoder", 4, None),
        (2, "decoder", 1, 1),
    ]
    prompts = trace.prompts().to_pylist()
    assert [p["prompt_id"] for p in prompts] == ["walk", "run, fast"]
    assert prompts[0]["text"] == "ab"
    assert [p["language"] for p in prompts] == ["en", None]
    assert trace.tags()["robot"] == ["r1", "r2"]
    rows = trace.events("walk", layer=0).to_pylist()
    assert [(r["position"], r["experts"], r["weights"]) for r in rows] == [
        (0, [1, 3], [0.75, 0.25]),
        (5, [2], [0.5]),
    ]
    assert trace.view("load", layer=0)["count"].to_pylist() == [0, 2, 1, 1]
    assert trace.view("load", layer=0)["mean_probability"].null_count == 4


def test_neutral_jsonl_and_parquet_with_lists_say_the_same(tmp_path: Path) -> None:
    rows = [
        {"sequence": "s", "step": 0, "layer": 1, "stream": "task", "expert": [2, 0], "weight": [0.3, 0.7]},
        {"sequence": "s", "step": 1, "layer": 1, "stream": "task", "expert": [1], "weight": [1.0]},
        {"sequence": 7, "step": 0, "layer": 1, "stream": "task", "expert": [], "weight": []},
        {"sequence": 8, "step": 0, "layer": 1, "stream": "task", "expert": []},
    ]
    lines = written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    for row in rows:
        row["sequence"] = str(row["sequence"])
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    a = imported("neutral", lines, experts=4)
    b = imported("neutral", tmp_path / "b.parquet", experts=4)
    assert a.events().equals(b.events())
    assert a.events()["experts"].to_pylist() == [[0, 2], [1], [], []]
    assert a.routers == b.routers
    assert a.routers[0].num_experts == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("sequence,step,layer\nx,0,0", "row 1, column expert: it is missing"),
        ("sequence,step,layer,expert\nx,0,0,1\nx,1,0,-1", "row 2, column expert: '-1' is not a whole number"),
        ("sequence,step,layer,expert\nx,0,0,1\nx,1,0,1.5", "row 2, column expert"),
        ("sequence,step,layer,expert\nx,0,0,1\nx,0,0,1", "row 2, column expert: expert 1 is chosen twice"),
        ("sequence,step,layer,expert\nx,0,0", "row 1: it has 3 cells, the header 4"),
        ("sequence,step,layer,expert,weight\nx,0,0,1,nan", "row 1, column weight: 'nan' is not a finite"),
        (
            "sequence,step,layer,expert,weight\nx,0,0,1,1\nx,1,0,1,",
            "row 2, column weight: row 1 of the same layer",
        ),
        ("sequence,step,layer,expert,language\nx,0,0,1,en\nx,1,0,1,de", "row 2, column language: 'de', but"),
        (
            "sequence,step,layer,expert,special\nx,0,0,1,perhaps",
            "row 1, column special: 'perhaps' is neither",
        ),
        ("sequence,step,layer,expert,phase\nx,0,0,1,later", "row 1, column phase: 'later'"),
        ("sequence,sequence\nx,y", "two columns have the same name"),
        (b"sequence,step,layer,expert\nx,0,0,\xff", "line 2: this is not UTF-8"),
        ('sequence,step,layer,expert\n"x,0,0,1', "row 1"),
        ("sequence,step,layer,expert\n", "holds no routing event"),
        ("sequence,step,layer,expert\nx,0,0,1\nx,0,2,[]", "layer 2 (decoder): no token chose an expert here"),
    ],
)
def test_neutral_refuses_with_row_and_column(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = written(tmp_path / "bad.csv", text)
    with pytest.raises(ImportRefused) as caught:
        run("neutral", path, tmp_path / "out")
    assert "bad.csv" in str(caught.value)
    assert said in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.csv"]


def test_an_import_never_overwrites(tmp_path: Path) -> None:
    path = written(tmp_path / "events.csv", CSV)
    run("neutral", path, tmp_path / "out")
    with pytest.raises(TraceExists):
        run("neutral", path, tmp_path / "out")
    with pytest.raises(TraceExists, match="holds something"):
        run("neutral", path, path)
    (tmp_path / "empty").mkdir()
    run("neutral", path, tmp_path / "empty")
    with pytest.raises(ImportRefused, match="no import format"):
        run("nothing", path, tmp_path / "x")
    with pytest.raises(ImportRefused, match="no option"):
        run("neutral", path, tmp_path / "x", top_k=1)
    assert list(parameters("vllm")) == ["experts", "layers", "token_text"]


VLLM = {
    "request_id": "r1",
    "prompt": "Hi there",
    "prompt_token_ids": [5, 6],
    "token_ids": [7, 8],
    "language": "en",
    "routed_experts": [[[3, 1], [0, 2]], [[1, 0], [2, 3]], [[0, 3], [1, 2]]],
}


def test_vllm_requests_in_every_spelling_are_the_same(tmp_path: Path) -> None:
    ids = np.array(VLLM["routed_experts"], np.uint8)
    packed = {"base64": base64.b64encode(ids.tobytes()).decode(), "dtype": "uint8", "shape": [3, 2, 2]}
    split = VLLM | {"prompt_routed_experts": ids[:2].tolist(), "routed_experts": ids[2:].tolist()}
    spelt = {
        "nested": [VLLM],
        "packed": [VLLM | {"routed_experts": packed}],
        "split": [split],
    }
    traces = [
        imported("vllm", written(tmp_path / f"{name}.jsonl", "\n".join(map(json.dumps, rows))))
        for name, rows in spelt.items()
    ]
    arrays = {f"0/{name}": np.array(value) for name, value in VLLM.items()}
    np.savez(tmp_path / "arrays.npz", **arrays)  # pyright: ignore[reportArgumentType]
    traces.append(imported("vllm", tmp_path / "arrays.npz"))
    for trace in traces:
        assert [r["experts"] for r in trace.events(layer=0).to_pylist()] == ids[:, 0].tolist()
        assert [r["experts"] for r in trace.events(layer=1).to_pylist()] == ids[:, 1].tolist()
        assert "weights" not in trace.events().column_names
        tokens = trace.tokens("r1")
        assert tokens["token_id"].to_pylist() == [5, 6, 7, 8]
        assert tokens["phase"].to_pylist() == ["prefill", "prefill", "decode", "decode"]
        assert trace.prompts()["text"].to_pylist() == ["Hi there"]
        assert trace.prompts()["language"].to_pylist() == ["en"]
        assert trace.view("load")["weight_sum"].null_count == 8
        assert trace.view("expert-contexts", layer=0, expert=1)["position"].to_pylist() == [1, 0]


def test_vllm_layers_experts_and_token_text_as_given(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", json.dumps(VLLM))
    trace = imported("vllm", path, experts=64, layers=[3, 7], token_text=lambda ids: [f"<{i}>" for i in ids])
    assert [(r.layer, r.num_experts) for r in trace.routers] == [(3, 64), (7, 64)]
    assert trace.tokens()["token"].to_pylist() == ["<5>", "<6>", "<7>", "<8>"]
    with pytest.raises(ImportRefused, match="2 layers"):
        run("vllm", path, tmp_path / "x", layers=[3])
    with pytest.raises(ImportRefused, match="uses expert 3, but there are 3 experts"):
        run("vllm", path, tmp_path / "x", experts=3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt_token_ids": None}, "row 1, prompt_token_ids: it must be a list"),
        ({"token_ids": [1, "x"]}, "row 1, token_ids: entry 1 is 'x'"),
        ({"routed_experts": [[1]]}, "row 1, routed_experts: expected whole numbers"),
        ({"routed_experts": [[[1], [2, 3]]]}, "row 1, routed_experts: it is not a regular array"),
        ({"routed_experts": [[[0.5]]]}, "row 1, routed_experts: expected whole numbers"),
        (
            {"routed_experts": [[[1]]] * 5},
            "row 1, routed_experts: 5 tokens have experts, but the request has 4",
        ),
        ({"routed_experts": {"base64": "!", "dtype": "uint8", "shape": [1, 1, 1]}}, "this is not base64"),
        ({"routed_experts": {"base64": "AAAA", "dtype": "uint8", "shape": [1, 1, 1]}}, "3 bytes do not make"),
        ({"routed_experts": [[[-2]]]}, "an expert id is -2"),
        ({"request_id": "\ud800"}, "not valid Unicode"),
    ],
)
def test_vllm_refuses_with_row_and_entry(tmp_path: Path, change: dict, said: str) -> None:
    path = written(tmp_path / "bad.jsonl", json.dumps(VLLM | change))
    with pytest.raises(ImportRefused) as caught:
        run("vllm", path, tmp_path / "out")
    assert said in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.jsonl"]


def _pass(
    ids: list[int], positions: list[int], mode: int, chosen: list, lengths: list[int] | None = None
) -> dict:
    padded = torch.full((2, len(ids), 8), -1, dtype=torch.int32)
    padded[1, :, :2] = torch.tensor(chosen, dtype=torch.int32)
    return {
        "forward_pass_id": 0,
        "rank": 0,
        "gatherer_key": "primary",
        "input_ids": ids,
        "positions": positions,
        "extend_seq_lens": lengths,
        "forward_mode": mode,
        "topk_ids_of_layer": padded,
        "misc_objects": [],
        "global_physical_count": torch.zeros(2, 4),
    }


def test_sglang_per_token_file(tmp_path: Path) -> None:
    """Layer 0 is dense (all -1); physical experts 0..3 are logical 0, 1, 2, 0."""
    records = [
        _pass([10, 11, 20], [0, 1, 0], 1, [[3, 1], [0, 2], [2, 1]], [2, 1]),
        _pass([12, 21], [2, 1], 2, [[1, 2], [3, 1]]),
        _pass([13, 22], [3, 2], 2, [[2, 3], [1, 0]]),
        _pass([30], [9], 2, [[1, 2]]),
    ]
    mapping = torch.tensor([[0, 1, 2, 0]] * 2)
    torch.save({"records": records, "last_physical_to_logical_map": mapping}, tmp_path / "dump.pt")
    trace = imported("sglang", tmp_path / "dump.pt", experts=3)
    assert [(r.layer, r.num_experts, r.top_k) for r in trace.routers] == [(1, 3, 2)]
    found = {
        prompt: trace.events(prompt)["experts"].to_pylist()
        for prompt in trace.prompts()["prompt_id"].to_pylist()
    }
    assert found == {
        "pass-00000-0": [[0, 1], [0, 2]],
        "pass-00000-1": [[2, 1]],
        "decode-00001-0": [[1, 2], [2, 0]],
        "decode-00001-1": [[0, 1], [1, 0]],
        "decode-00003-0": [[1, 2]],
    }
    assert trace.tokens("decode-00001-1")["token_id"].to_pylist() == [21, 22]
    mapping[1, 3] = -1  # a place that holds no expert, which tokens went to all the same
    torch.save({"records": records, "last_physical_to_logical_map": mapping}, tmp_path / "lost.pt")
    with pytest.raises(ImportRefused, match=r"record 0.*layer 1: token 0 went to place 3"):
        run("sglang", tmp_path / "lost.pt", tmp_path / "x", experts=3)


def test_sglang_stat_file(tmp_path: Path) -> None:
    count = torch.zeros(4, 2, 3, dtype=torch.int32)
    count[1, 0] = torch.tensor([2, 3, 1])
    count[3, 0] = torch.tensor([2, 2, 0])
    count[3, 1] = torch.tensor([1, 1, 2])
    torch.save({"rank": 0, "logical_count": count}, tmp_path / "stat.pt")
    trace = imported("sglang", tmp_path / "stat.pt", top_k=2)
    assert (trace.num_prompts, trace.num_tokens, trace.num_events) == (2, 0, 0)
    assert trace.view("load", layer=0)["count"].to_pylist() == [4, 5, 1]
    assert trace.view("load", layer=0)["tokens"].to_pylist() == [5, 5, 5]
    assert trace.view("load", where={"prompt_id": ["step-00003"]}, layer=1)["count"].to_pylist() == [1, 1, 2]
    with pytest.raises(ImportRefused, match="give top_k"):
        run("sglang", tmp_path / "stat.pt", tmp_path / "x")
    with pytest.raises(
        ImportRefused, match="an expert has 3 of 6 choices, more than the 1 tokens that k = 6 gives"
    ):
        run("sglang", tmp_path / "stat.pt", tmp_path / "x", top_k=6)


def test_sglang_responses(tmp_path: Path) -> None:
    ids = np.array([[[1, 0]], [[2, 3]], [[3, 1]]], np.int32)
    row = {
        "text": " yes",
        "output_ids": [8, 9],
        "meta_info": {
            "id": "abc",
            "prompt_tokens": 2,
            "routed_experts": base64.b64encode(ids.tobytes()).decode(),
        },
    }
    path = written(tmp_path / "a.jsonl", json.dumps(row))
    trace = imported("sglang", path, num_layers=1, top_k=2)
    assert trace.events("abc")["experts"].to_pylist() == ids[:, 0].tolist()
    assert trace.tokens("abc")["token_id"].to_pylist() == [None, None, 8, 9]
    assert trace.prompts()["generated"].to_pylist() == [" yes"]
    with pytest.raises(ImportRefused, match="give top_k and num_layers"):
        run("sglang", path, tmp_path / "x")
    with pytest.raises(ImportRefused, match="not a multiple of 5 layers"):
        run("sglang", path, tmp_path / "x", num_layers=5, top_k=2)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"records": [Evil()]}, tmp_path / "evil.pt")
    with pytest.raises(ImportRefused, match=r"not a readable \.pt file: it holds a [\w.]+; only tensors"):
        run("sglang", tmp_path / "evil.pt", tmp_path / "x")
    assert [p.name for p in tmp_path.iterdir()] == ["evil.pt"]


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "events.csv", CSV)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moescope.store.files.folder._write_durably", full)
    with pytest.raises(StoreError, match="the disk is full"):
        run("neutral", path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["events.csv"]


def test_views_that_need_what_an_engine_did_not_give_say_so(tmp_path: Path) -> None:
    rows = [
        {"sequence": f"{language}{n}", "step": step, "layer": layer, "expert": (step + n) % 4, "language": language,
         "parallel_id": str(n)}
        for language in ("en", "de") for n in range(3) for step in range(3) for layer in range(2)
    ]  # fmt: skip
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run("neutral", tmp_path / "e.jsonl", tmp_path / "t")
    trace = open_trace(tmp_path / "t")
    needs_probabilities = ("alignment", "alignment-matrix", "routing-entropy")
    for view in needs_probabilities:
        with pytest.raises(StoreError, match="the trace holds no router probabilities"):
            trace.view(view)
    with pytest.raises(StoreError, match="no gate weights"):
        trace.view("expert-tokens", layer=0, expert=0, order="weight")
    for measure in ("weight", "weight_rate"):
        with pytest.raises(StoreError, match="no gate weights; measure rate or count does without"):
            trace.view("resonance", by="language", target="de", measure=measure)
    load = trace.view("load")
    assert load["weight_sum"].null_count == load["mean_probability"].null_count == load.num_rows
    assert set(trace.view("expert-contexts", layer=0, expert=0)["weight"].to_pylist()) == {None}
    assert set(trace.sql("SELECT weight FROM selections")["weight"].to_pylist()) == {None}
    assert trace.view("resonance", by="language", target="de", permutations=20, stability=2).num_rows == 8

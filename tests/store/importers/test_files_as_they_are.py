"""What engines and people really write: placeholders, prefixes, speculative passes, server answers, odd cells."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from moescope.store import Trace, open_trace
from moescope.store.errors import ImportRefused
from moescope.store.importers import run
from moescope.store.importers.counts import import_counts


def imported(name: str, path: Path, **options) -> tuple[Trace, list[str]]:
    out = path.with_name(path.name + ".trace")
    made = run(name, path, out, **options)
    trace = open_trace(out)
    assert trace.verify() == []
    return trace, made.notes


def lines(path: Path, *rows: dict) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def refused(name: str, path: Path, **options) -> str:
    with pytest.raises(ImportRefused) as caught:
        run(name, path, path.with_name("refused"), **options)
    assert not path.with_name("refused").exists()
    return str(caught.value)


def chosen(trace: Trace, layer: int, prompt: str | None = None) -> list[tuple[int, list[int]]]:
    rows = trace.events(prompt, layer=layer).to_pylist()
    return [(row["position"], row["experts"]) for row in rows]


def ramp(rows: int, layers: int = 2, start: int = 0) -> np.ndarray:
    """(rows, layers, 2): the token at position p uses experts p and p + 1."""
    first = np.arange(start, start + rows)[:, None].repeat(layers, 1)
    return np.stack([first, first + 1], axis=2).astype(np.int32)


def request(ids: np.ndarray | list, prompt: int = 3, generated: int = 4, **more) -> dict:
    ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
    return {
        "request_id": "r", "prompt_token_ids": list(range(prompt)), "token_ids": list(range(generated)),
        "routed_experts": ids, **more,
    }  # fmt: skip


# Placeholders


def test_a_dense_layer_has_no_router(tmp_path: Path) -> None:
    ids = np.concatenate([np.zeros((6, 1, 2), int), ramp(6)], axis=1)
    trace, notes = imported("vllm", lines(tmp_path / "a.jsonl", request(ids)), experts=8)
    assert [spec.layer for spec in trace.routers] == [1, 2]
    assert any("dense layer's placeholders: layer 0" in note for note in notes)
    load = trace.view("load", layer=1).to_pylist()
    assert sum(row["count"] for row in load) == 6 * 2
    assert max(row["share"] for row in load) <= 1


def test_tokens_that_were_not_captured_have_no_routing(tmp_path: Path) -> None:
    ids = ramp(6, start=1)
    ids[:2] = 0
    trace, notes = imported("vllm", lines(tmp_path / "a.jsonl", request(ids)), experts=8)
    assert chosen(trace, 0) == [(p, [p + 1, p + 2]) for p in range(2, 6)]
    assert any(note.startswith("2 tokens with placeholders at every layer") for note in notes)


@pytest.mark.parametrize("k", [1, 2, 8])
def test_nothing_but_zeros_was_not_captured(tmp_path: Path, k: int) -> None:
    said = refused("vllm", lines(tmp_path / "a.jsonl", request(np.zeros((6, 3, k), int))))
    assert "every expert id is 0" in said
    assert "not captured" in said


def test_an_expert_twice_in_a_token_is_refused(tmp_path: Path) -> None:
    ids = ramp(6)
    ids[3, 1] = 5
    said = refused("vllm", lines(tmp_path / "a.jsonl", request(ids)))
    assert "sequence 'r', layer 1: expert 5 occurs twice in the token at position 3" in said
    row = {"text": "", "output_ids": list(range(4)), "input_ids": [1, 2, 3]}
    row["meta_info"] = {"id": "x", "routed_experts": base64.b64encode(ids.tobytes()).decode()}
    assert "occurs twice" in refused("sglang", lines(tmp_path / "b.jsonl", row), num_layers=2, top_k=2)
    count = torch.tensor([[[9, 1, 2], [4, 4, 4]]])
    torch.save({"logical_count": count}, tmp_path / "c.pt")
    assert "more than the 6 tokens that k = 2 gives" in refused("sglang", tmp_path / "c.pt", top_k=2)


# Routing that begins later


@pytest.mark.parametrize("key", ["routed_experts_start_len", "num_cached_tokens"])
def test_routing_after_a_prefix_stands_where_it_belongs(tmp_path: Path, key: str) -> None:
    path = lines(tmp_path / "a.jsonl", request(ramp(4, start=2), **{key: 2}))
    trace, _ = imported("vllm", path, experts=8)
    assert chosen(trace, 0) == [(p, [p, p + 1]) for p in range(2, 6)]
    assert trace.tokens("r")["phase"].to_pylist() == ["prefill"] * 3 + ["decode"] * 4
    assert trace.tags() == {}


def test_a_cached_prefix_whose_routing_came_all_the_same_moves_nothing(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", request(ramp(6), num_cached_tokens=2))
    assert chosen(imported("vllm", path)[0], 0)[0] == (0, [0, 1])


def test_fewer_rows_than_tokens_without_a_word_are_refused(tmp_path: Path) -> None:
    said = refused("vllm", lines(tmp_path / "a.jsonl", request(ramp(4))))
    assert "4 tokens have experts, but the request has 7, of which 6 pass the model" in said
    assert "routed_experts_start_len" in said
    meta: dict = {"prompt_tokens": 3, "completion_tokens": 4}
    meta["routed_experts"] = base64.b64encode(ramp(4, start=2).tobytes()).decode()
    assert "4 tokens" in refused(
        "sglang", lines(tmp_path / "b.jsonl", {"meta_info": meta}), num_layers=2, top_k=2
    )
    row = {"meta_info": meta | {"routed_experts_start_len": 2}}
    trace, _ = imported("sglang", lines(tmp_path / "c.jsonl", row), num_layers=2, top_k=2)
    assert chosen(trace, 1) == [(p, [p, p + 1]) for p in range(2, 6)]


# Passes of SGLang's recorder


def record(ids: list[int], positions: list[int], mode: int, rows: list, lengths: list[int] | None) -> dict:
    padded = torch.full((2, len(ids), 8), -1, dtype=torch.int32)
    padded[1, :, :2] = torch.tensor(rows, dtype=torch.int32)
    return {
        "input_ids": ids, "positions": positions, "extend_seq_lens": lengths, "forward_mode": mode,
        "topk_ids_of_layer": padded,
    }  # fmt: skip


def test_speculative_mixed_and_chunked_passes(tmp_path: Path) -> None:
    records = [
        record([1, 2, 3], [0, 1, 2], 1, [(1, 2)] * 3, [3]),
        record([4, 5, 9, 8], [3, 4, 30, 12], 3, [(3, 4), (3, 4), (5, 6), (7, 8)], [2, 1, 1]),
        record([7, 6], [31, 13], 2, [(5, 7), (7, 9)], None),
        record([11, 12, 13, 21, 22], [20, 21, 22, 7, 8], 5, [(1, 2)] * 3 + [(3, 4)] * 2, None),
    ]
    torch.save({"records": records}, tmp_path / "a.pt")
    trace, notes = imported("sglang", tmp_path / "a.pt", experts=16)
    found = {
        (row["prompt_id"], row["phase"]): [] for row in trace.tokens().to_pylist()
    }  # fmt: skip
    for row in trace.tokens().to_pylist():
        found[row["prompt_id"], row["phase"]].append((row["position"], row["token_id"]))
    assert found == {
        ("pass-00000-0", "prefill"): [(0, 1), (1, 2), (2, 3)],
        ("pass-00001-0", "prefill"): [(3, 4), (4, 5)],
        ("decode-00001-0", "decode"): [(30, 9), (31, 7)],
        ("decode-00001-1", "decode"): [(12, 8), (13, 6)],
        ("pass-00003-0", "unknown"): [(20, 11), (21, 12), (22, 13)],
        ("pass-00003-1", "unknown"): [(7, 21), (8, 22)],
    }
    assert chosen(trace, 1, "decode-00001-1") == [(12, [7, 8]), (13, [7, 9])]
    assert trace.tags()["mode"] == ["decode", "draft", "prefill"]
    assert any("drafts" in note for note in notes)
    prefill = trace.view("load", layer=1, phase="prefill").to_pylist()
    assert sum(row["count"] for row in prefill) == 5 * 2


# Answers of servers


def npy(array: np.ndarray) -> str:
    sink = io.BytesIO()
    np.save(sink, array)
    return base64.b64encode(sink.getvalue()).decode()


def test_answers_of_vllms_server(tmp_path: Path) -> None:
    ids = npy(ramp(6).astype(np.uint8))
    choice = {
        "index": 0,
        "text": "abcd",
        "token_ids": [4, 5, 6, 7],
        "routed_experts": ids,
        "finish_reason": "length",
    }
    answer = {"id": "cmpl-1", "object": "text_completion", "model": "m", "prompt_token_ids": [1, 2, 3]}
    late = choice | {"index": 1, "routed_experts": npy(ramp(4, start=2).astype(np.uint8))}
    usage = {"prompt_tokens_details": {"cached_tokens": 2}}
    rows = [answer | {"choices": [choice]}, answer | {"id": "c2", "choices": [choice, late], "usage": usage}]
    trace, _ = imported("vllm", lines(tmp_path / "a.jsonl", *rows), experts=8)
    assert [p["prompt_id"] for p in trace.prompts().to_pylist()] == ["cmpl-1", "c2-0", "c2-1"]
    assert trace.prompts()["generated"].to_pylist() == ["abcd"] * 3
    assert trace.tags() == {"model": ["m"]}
    assert chosen(trace, 0, "cmpl-1") == [(p, [p, p + 1]) for p in range(6)]
    assert chosen(trace, 0, "c2-1") == [(p, [p, p + 1]) for p in range(2, 6)]
    raw = request([], routed_experts="AAAA")
    assert "base64, but not a .npy" in refused("vllm", lines(tmp_path / "b.jsonl", raw))


def test_chat_answers_of_sglangs_server(tmp_path: Path) -> None:
    meta = {"id": "x", "prompt_tokens": 3, "completion_tokens": 4, "cached_tokens": 0}
    meta["routed_experts"] = base64.b64encode(ramp(6, layers=3).tobytes()).decode()
    choice = {"index": 0, "message": {"role": "assistant", "content": "abcd"}, "meta_info": meta}
    path = lines(tmp_path / "a.jsonl", {"id": "c", "object": "chat.completion", "choices": [choice]})
    trace, _ = imported("sglang", path, num_layers=3, top_k=2, experts=8)
    assert chosen(trace, 2) == [(p, [p, p + 1]) for p in range(6)]
    assert trace.prompts()["generated"].to_pylist() == ["abcd"]
    assert trace.num_tokens == 7


# Rows and cells


def test_a_quotation_mark_in_tsv_is_a_character(tmp_path: Path) -> None:
    text = 'sequence\tstep\tlayer\texpert\ttoken\na\t0\t0\t1\t"\na\t1\t0\t2\t"\na\t2\t0\t3\t"x"\r\n'
    (tmp_path / "a.tsv").write_bytes(text.encode())
    trace, _ = imported("neutral", tmp_path / "a.tsv", experts=4)
    assert trace.tokens()["token"].to_pylist() == ['"', '"', '"x"']
    assert chosen(trace, 0) == [(0, [1]), (1, [2]), (2, [3])]


def test_only_line_ends_end_a_row_of_csv(tmp_path: Path) -> None:
    tokens = ["The", "\f", "\u2028x", "\u0085y", "\u001cz", "a\nb", 'say "hi"', "\v"]
    rows = [f'a,{i},0,{i % 4},"{token.replace(chr(34), chr(34) * 2)}"' for i, token in enumerate(tokens)]
    (tmp_path / "a.csv").write_text("\n".join(["sequence,step,layer,expert,token", *rows]), newline="")
    trace, _ = imported("neutral", tmp_path / "a.csv")
    assert trace.tokens()["token"].to_pylist() == tokens
    assert chosen(trace, 0) == [(i, [i % 4]) for i in range(len(tokens))]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", ",sequence,step,layer,expert\n0,a,0,0,3\n", "column 1 has no name: leave it out (pandas writes"),
        ("a.csv", "sequence;step;layer;expert\na;0;0;3\n", "separated by semicolons (';')"),
        ("a.tsv", "sequence,step,layer,expert\na,0,0,3\n", "separated by commas (',')"),
        ("a.csv", "sequence,step,layer,expert\na,1_0,0,3\n", "'1_0' is not a whole number"),
        ("a.csv", "sequence,step,layer,expert\na,٣,0,3\n", "'٣' is not a whole number"),
        ("a.csv", "sequence,step,layer,expert\na,99999999999,0,3\n", "is not a whole number from 0 to 2147483647"),
        ("a.csv", "sequence,step,layer,expert\na,0,99999999999,3\n", "is not a whole number from 0 to 2147483647"),
        ("a.csv", "sequence,step,layer,expert,weight\na,0,0,3,7e4\n", "70000 is beyond 60000"),
        ("a.csv", "sequence,step,layer,expert,weight\na,0,0,3,1_0.5\n", "'1_0.5' is not a finite number"),
        ("a.csv", "layer,expert,count\n0,3,5\n", "this looks like a table of counts: moescope import counts"),
        ("a.json", '{"sequence": "a"}\n{"sequence": "b"}\n', "a file of one object a line is called .jsonl"),
    ],
)  # fmt: skip
def test_messages_that_help(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    assert said in refused("neutral", tmp_path / name)


def test_negative_weights_and_cells_of_data_frames(tmp_path: Path) -> None:
    rows = [
        {"sequence": "a", "step": s, "layer": 0, "expert": [3, 2], "weight": [-0.5, -0.75]} for s in range(2)
    ]
    trace, _ = imported("neutral", lines(tmp_path / "a.jsonl", *rows))
    assert trace.sql("SELECT weight_max FROM rollups").to_pylist() == [
        {"weight_max": [0.0, 0.0, -0.75, -0.5]}
    ]
    table = pa.table(
        {"sequence": ["a", "b"], "step": [0.0, 1.0], "layer": [0, 0], "expert": [1, 2],
         "language": pa.array([float("nan"), float("nan")], pa.float64())}
    )  # fmt: skip
    pq.write_table(table, tmp_path / "b.parquet")
    trace, _ = imported("neutral", tmp_path / "b.parquet")
    assert trace.prompts()["language"].to_pylist() == [None, None]
    assert trace.tokens()["phase"].to_pylist() == ["unknown", "unknown"]


@pytest.mark.parametrize("kind", ["rows", "values", "group"])
def test_a_parquet_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some hundred bytes that decode to gigabytes: the footer's own figures are enough to refuse them."""
    rows = 5_000_000
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array(["x" * 1000]))
    table = pa.table(dict.fromkeys(("sequence", "text"), column))
    if kind == "values":
        lists = pa.ListArray.from_arrays(pa.array([0, rows]), pa.array(np.zeros(rows, np.int8)))
        table = pa.table({"expert": lists})
    pq.write_table(table, tmp_path / "bomb.parquet", row_group_size=rows, compression="zstd")
    limits = {"rows": "rows=1000", "group": "group=16"}
    if kind in limits:
        from moescope.store.foreign import parquet
        from moescope.store.importers import rows as reader

        name, _, number = limits[kind].partition("=")
        tight = {**vars(parquet.ROUTING), name: int(number)}
        monkeypatch.setattr(reader, "ROUTING", parquet.Limits(**tight))
    monkeypatch.setattr("pyarrow.parquet.ParquetFile.iter_batches", lambda *a, **k: pytest.fail("decoded"))
    said = refused("neutral", tmp_path / "bomb.parquet")
    expected = {"rows": "it declares 5,000,000 rows", "values": "values in", "group": "row group 0 declares"}
    assert expected[kind] in said


# Probabilities


def test_full_probabilities_make_alignment_work_on_imports(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, exact = [], {}
    for language in ("en", "de"):
        for text in range(3):
            p_NE = rng.dirichlet(np.ones(4), 5)
            exact[language, text] = p_NE.mean(0)
            rows += [
                {"sequence": f"{language}{text}", "step": step, "layer": 0, "expert": np.argsort(-p)[:2].tolist(),
                 "weight": np.sort(p)[::-1][:2].tolist(), "probabilities": p.tolist(), "language": language,
                 "parallel_id": str(text)}
                for step, p in enumerate(p_NE)
            ]  # fmt: skip
    trace, _ = imported("neutral", lines(tmp_path / "a.jsonl", *rows))
    assert (trace.routers[0].num_experts, trace.routers[0].scoring) == (4, "softmax")

    def divergence(p: np.ndarray, q: np.ndarray) -> float:
        def entropy(x: np.ndarray) -> float:
            return float(-(x * np.log(x)).sum())

        js = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
        return js / (np.log(4) - (entropy(p) + entropy(q)) / 2)

    expected = np.mean([divergence(exact["en", text], exact["de", text]) for text in range(3)])
    (row,) = trace.view("alignment", pivot="en").to_pylist()
    assert row["divergence"] == pytest.approx(expected, abs=1e-5)
    event = trace.events("en0").to_pylist()[0]
    assert event["probability"] == pytest.approx(rows[0]["weight"], abs=1e-6)
    rows[1].pop("probabilities")
    assert "each event needs them" in refused("neutral", lines(tmp_path / "b.jsonl", *rows))


# Tensors


def test_tensors_out_of_anybodys_own_code(tmp_path: Path) -> None:
    """Two sequences of 3 and 2 tokens at layers 2 and 5; the second slot of the last token is empty."""
    ids = torch.tensor(
        [[[0, 3], [1, 2]], [[1, 0], [2, 3]], [[3, 2], [0, 1]], [[2, 1], [3, 0]], [[1, 3], [2, -1]]]
    )
    weights = torch.tensor([[0.25, 0.75], [0.9, 0.1], [0.5, 0.5], [0.3, 0.7], [0.6, 0.4]])[:, None].repeat(
        1, 2, 1
    )
    tensors = {
        "ids": ids,
        "weights": weights.to(torch.bfloat16),
        "lengths": torch.tensor([3, 2]),
        "layers": torch.tensor([2, 5]),
        "token_ids": torch.tensor([7, 8, 9, 7, 8]),
    }
    rows = [
        {"prompt_id": "a", "text": "x y z", "language": "en", "robot": "r1"},
        {"prompt_id": "b", "language": "de"},
    ]
    save_file(tensors, tmp_path / "r.safetensors", {"sequences": json.dumps(rows)})
    trace, notes = imported(
        "tensors", tmp_path / "r.safetensors", experts=4, token_text=lambda ids: [f"<{i}>" for i in ids]
    )
    assert [(spec.layer, spec.num_experts, spec.top_k) for spec in trace.routers] == [(2, 4, 2), (5, 4, None)]
    assert chosen(trace, 2, "a") == [(0, [3, 0]), (1, [1, 0]), (2, [3, 2])]  # in descending weight
    assert chosen(trace, 5, "b") == [(0, [0, 3]), (1, [2])]
    assert trace.events("a", layer=2)["weights"].to_pylist()[0] == [0.75, 0.25]
    assert trace.tokens("b")["token"].to_pylist() == ["<7>", "<8>"]
    assert trace.tags()["robot"] == ["r1"]
    assert trace.prompts()["language"].to_pylist() == ["en", "de"]
    assert notes == []


def test_tensors_of_probabilities_and_what_is_refused(tmp_path: Path) -> None:
    p = torch.softmax(torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(0)), -1)
    top = p.topk(2, dim=-1)
    good = {"ids": top.indices, "weights": top.values, "probabilities": p, "lengths": torch.tensor([4])}
    save_file({key: value.contiguous() for key, value in good.items()}, tmp_path / "a.safetensors")
    trace, _ = imported("tensors", tmp_path / "a.safetensors")
    assert (trace.routers[0].num_experts, trace.routers[0].scoring) == (6, "softmax")
    mean = trace.view("load", layer=0)["mean_probability"].to_pylist()
    assert mean == pytest.approx(p.mean((0, 1)).tolist(), abs=1e-6)
    bad = {
        "lengths": (torch.tensor([3]), "they must sum to the 4 tokens of ids"),
        "weights": (torch.zeros(4, 2), "weights: expected shape (4, 1, 2)"),
        "ids": (torch.full((4, 1, 2), 3), "left out|holds no routing event|twice"),
        "extra": (torch.zeros(1), "unknown tensor 'extra'"),
    }
    for name, (tensor, said) in bad.items():
        save_file(
            {key: value.contiguous() for key, value in (good | {name: tensor}).items()},
            tmp_path / "b.safetensors",
        )
        message = refused("tensors", tmp_path / "b.safetensors")
        assert any(part in message for part in said.split("|")), message


def counted(tmp_path, name, text, **options):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    import_counts(path, tmp_path / "out", **options)
    return open_trace(tmp_path / "out")


def test_an_empty_count_is_no_choice(tmp_path):
    with pytest.raises(ImportRefused, match="row 2, column count: it is empty"):
        counted(tmp_path, "a.csv", "layer,expert,count\n0,0,100\n0,1,\n")
    with pytest.raises(ImportRefused, match="row 2, column count"):
        counted(tmp_path, "b.jsonl", '{"layer": 0, "expert": 0, "count": 5}\n{"layer": 0, "expert": 1}\n')


def test_weights_of_choices_add_up(tmp_path):
    trace = counted(tmp_path, "a.csv", "layer,expert,weight_sum\n0,0,0.5\n0,0,0.25\n")
    row = trace.view("load").to_pylist()[0]
    assert (row["count"], row["weight_sum"]) == (2, 0.75)


def test_lists_of_other_lengths_are_no_layers_of_one_model(tmp_path):
    text = '{"layer": 0, "tokens_per_expert": [5, 5]}\n{"layer": 1, "tokens_per_expert": [1, 2, 3, 4]}\n'
    with pytest.raises(ImportRefused, match=r"lists of \[2, 4\] experts"):
        counted(tmp_path, "a.jsonl", text)


def test_a_layer_number_twice_loses_nothing(tmp_path):
    np.savez(tmp_path / "a.npz", count=np.array([[1, 2], [30, 40]]), layers=np.array([3, 3]))
    with pytest.raises(ImportRefused, match="a layer number is given twice"):
        import_counts(tmp_path / "a.npz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_choices_than_k_a_token_contradict_the_file(tmp_path):
    with pytest.raises(ImportRefused, match="15 choices of 5 tokens are more than k = 2 each"):
        counted(tmp_path, "a.csv", "layer,expert,count,tokens\n0,0,5,5\n0,1,5,5\n0,2,5,5\n", top_k=2)


def test_a_name_twice_in_json_is_refused(tmp_path):
    with pytest.raises(ImportRefused, match="'layer' is given twice"):
        counted(tmp_path, "a.jsonl", '{"layer": 0, "expert": 0, "count": 5, "layer": 5}\n')

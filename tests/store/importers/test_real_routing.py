"""Routing that others released, against its authors' own totals. The data is never part of the project: the folder is
named by MOESCOPE_REAL, or lies beside the checkout; without it these tests skip."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from moescope.kernels.alignment import routing_divergence
from moescope.store import Trace, open_trace
from moescope.store.arrow import pc
from moescope.store.importers import run

FOLDER = Path(os.environ.get("MOESCOPE_REAL", Path(__file__).parents[4] / "shared" / "real"))
LANGUAGES = ["en", "de", "es", "fr", "zh", "ja", "sw", "bn"]
DOMAINS = ["arxiv", "book", "c4", "github", "wikipedia", "tulu"]


def given(name: str) -> Path:
    if not (FOLDER / name).exists():
        pytest.skip(f"{name} is not in {FOLDER} (docs/real-routing.md says where it comes from)")
    return FOLDER / name


def counted(trace: Trace, by: str, names: list[str], column: str = "count") -> np.ndarray:
    table = trace.counts(by=by)
    layers = np.unique(np.asarray(table["layer"]))
    found = np.zeros((len(names), len(layers), trace.routers[0].num_experts))
    groups = [names.index(name) for name in table[by].to_pylist()]
    found[groups, np.searchsorted(layers, table["layer"]), np.asarray(table["expert"])] = table[column]
    return found


def test_qwen3_counts_and_their_u_over_depth(tmp_path: Path) -> None:
    path = given("conctsai.npz")
    run("counts", path, tmp_path / "t", top_k=8, labels={"language": LANGUAGES})
    trace = open_trace(tmp_path / "t")
    with np.load(path) as released:
        counts, gates = released["A"], released["G"]
    assert np.array_equal(counted(trace, "language", LANGUAGES), counts)
    ours = counted(trace, "language", LANGUAGES, "weight_sum")
    assert np.allclose(ours, gates, rtol=1e-6, atol=1e-4)
    p = ours / ours.sum(-1, keepdims=True)
    by_language = dict(zip(LANGUAGES[1:], routing_divergence(p[1:], p[:1]), strict=True))
    bands = {"es": (0.090, 0.045, 0.124), "sw": (0.262, 0.152, 0.226), "bn": (0.233, 0.151, 0.238)}
    for language, expected in bands.items():
        found = [by_language[language][first:last].mean() for first, last in ((0, 8), (8, 35), (35, 48))]
        assert found == pytest.approx(expected, abs=6e-4)


def test_olmoe_counts_with_their_labels(tmp_path: Path) -> None:
    path = given("olmoe_counts.pt")
    run("counts", path, tmp_path / "t", top_k=8, layers=[0, 7, 15], labels={"group": DOMAINS})
    trace = open_trace(tmp_path / "t")
    assert [spec.layer for spec in trace.routers] == [0, 7, 15]
    tokens = counted(trace, "group", DOMAINS).sum(-1) / 8
    assert tokens.tolist() == [[208896] * 3] * 5 + [[205243] * 3]
    assert trace.prompts()["prompt_id"].to_pylist() == DOMAINS


def test_scores_of_one_task_of_esft(tmp_path: Path) -> None:
    """Two of the four tasks have few tokens; one is enough to hold the import against the released scores."""
    table = pq.read_table(given("esft.parquet"))
    released = json.loads(given("esft_released_summary.json").read_text())
    sizes = {row["values"]: row["counts"] for row in pc.value_counts(table["group"]).to_pylist()}
    task = min(sizes, key=lambda name: sizes[name])
    pq.write_table(table.filter(pc.equal(table["group"], task)), tmp_path / "task.parquet")
    run("neutral", tmp_path / "task.parquet", tmp_path / "t", experts=64)
    trace = open_trace(tmp_path / "t")
    assert trace.num_events == sizes[task]
    tokens = trace.num_tokens
    for name, column, scale in (("token_scores", "count", 6), ("gate_scores", "weight_sum", 1)):
        ours = counted(trace, "group", [task], column)[0] / (scale * tokens)
        assert (
            np.abs(ours - np.array(released[task][name])).max() < 6e-5
        )  # their rounding, and float16 weights


def test_deepseek_moe_with_text(tmp_path: Path) -> None:
    run("neutral", given("dsmoe16b.parquet"), tmp_path / "t", experts=64)
    trace = open_trace(tmp_path / "t")
    assert (trace.num_events, trace.num_tokens, trace.num_prompts, len(trace.routers)) == (2349, 87, 10, 27)

"""Decisions from a small trace, against loops over its events."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from events_by_hand import rows_of

from moescope.store import StoreError, Trace, open_trace
from moescope.store.deliver.placement_files import placement_file
from moescope.store.errors import DecisionRefused
from moescope.store.expert_sheet import write_router_rows
from moescope.store.files.folder import open_folder
from moescope.store.notes import notes_of
from moescope.store.read.token_filter import ALL_TOKENS
from moescope.store.views.deploy.decide import decide_placement
from moescope.store.views.deploy.halves import halves
from moescope.store.views.deploy.paths import paths
from moescope.store.views.deploy.placements import Cluster
from moescope.store.write.synthetic import Synthetic, write_synthetic


def test_halves_keep_translations_together_and_leave_nobody_out(shared_trace: Trace) -> None:
    parts = halves(shared_trace, ALL_TOKENS, None, 0)
    assert (parts.fit_P ^ parts.report_P).all()
    text = shared_trace.prompts()["parallel_id"].to_pylist()
    fit = {one for one, inside in zip(text, parts.fit_P, strict=True) if inside and one is not None}
    report = {one for one, inside in zip(text, parts.report_P, strict=True) if inside and one is not None}
    assert not fit & report
    assert abs(int(parts.fit_P.sum()) - int(parts.report_P.sum())) <= 6


def test_halves_by_a_filter(shared_trace: Trace) -> None:
    language = shared_trace.prompts()["language"].to_pylist()
    parts = halves(shared_trace, ALL_TOKENS, {"language": [language[0]]}, 0)
    assert parts.fit_P.tolist() == [one == language[0] for one in language]
    with pytest.raises(DecisionRefused, match="both parts need at least one"):
        halves(shared_trace, ALL_TOKENS, {"language": sorted(set(language))}, 0)


def test_paths_are_the_events_token_by_token(shared_trace: Trace) -> None:
    found = paths(shared_trace, [0, 1, 2], "decoder", ALL_TOKENS)
    for at, layer in enumerate((0, 1, 2)):
        assert found.ids_TLK[:, at].tolist() == [row["experts"] for row in rows_of(shared_trace, layer)]
    assert len(found.starts_S) >= shared_trace.num_prompts
    half = np.arange(shared_trace.num_prompts) % 2 == 0
    some = found.of(half)
    assert len(some.ids_TLK) == half[found.prompt_T].sum()
    assert (np.diff(some.prompt_T)[some.starts_S[1:] - 1] >= 0).all()


def _loads_by_hand(trace: Trace, layer: int, prompts: set, device: dict) -> list[float]:
    loads = [0.0] * 4
    for row in rows_of(trace, layer):
        if row["prompt_id"] in prompts:
            for expert in row["experts"]:
                loads[device[expert]] += 1
    return loads


def test_balancedness_of_held_out_prompts_by_hand(shared_trace: Trace) -> None:
    made = decide_placement(shared_trace, Cluster(devices=4), seconds=0.2)
    report = {
        one
        for one, inside in zip(
            shared_trace.prompts()["prompt_id"].to_pylist(), made.loads.report_P, strict=True
        )
        if inside
    }
    table = made.table.to_pylist()
    for one in made.placements:
        if one.method == "random":
            continue
        mean, top = 0.0, 0.0
        for at, layer in enumerate((0, 1, 2)):
            places = one.physical_LR[at].tolist()
            assert sorted(places) == list(range(12))
            loads = _loads_by_hand(shared_trace, layer, report, {e: i // 3 for i, e in enumerate(places)})
            (row,) = [r for r in table if r["method"] == one.method and r["layer"] == layer]
            assert row["balancedness"] == pytest.approx(np.mean(loads) / max(loads))
            mean, top = mean + np.mean(loads), top + max(loads)
        (whole,) = [r for r in table if r["method"] == one.method and r["layer"] is None]
        assert whole["balancedness"] == pytest.approx(mean / top)
        assert whole["low"] <= whole["balancedness"] <= whole["high"]


def test_remote_share_by_hand(shared_trace: Trace) -> None:
    made = decide_placement(shared_trace, Cluster(devices=4), seconds=0.2)
    ids = shared_trace.prompts()["prompt_id"].to_pylist()
    wanted = {ids[i] for i in np.flatnonzero(made.loads.report_P)}
    remote = total = 0
    for a, b in zip(rows_of(shared_trace, 0), rows_of(shared_trace, 1), strict=True):
        if a["prompt_id"] in wanted:
            for x in a["experts"]:
                for y in b["experts"]:
                    total, remote = total + 1, remote + (x // 3 != y // 3)
    (row,) = [r for r in made.table.to_pylist() if (r["method"], r["layer"]) == ("contiguous", 0)]
    assert row["remote_share"] == pytest.approx(remote / total)


def test_the_fitted_placements_beat_the_plain_ones_where_they_were_fitted(shared_trace: Trace) -> None:
    made = decide_placement(shared_trace, Cluster(devices=4, replicas=4), seconds=0.2)
    whole = {row["method"]: row for row in made.table.to_pylist() if row["layer"] is None}
    assert whole["greedy"]["fitted"] > whole["random"]["fitted"]
    assert whole["milp"]["fitted"] >= whole["greedy"]["fitted"] - 2e-3
    assert whole["eplb-global"]["places"] == 16
    assert made.chosen(None).method in ("greedy", "milp", "eplb-global", "eplb-hierarchical")
    assert any("Fitted on" in note for note in notes_of(made.table))


def test_sglang_gets_its_one_key_and_a_row_for_every_layer(shared_trace: Trace) -> None:
    made = decide_placement(shared_trace, Cluster(devices=4, replicas=4), seconds=0.2)
    one = made.chosen("eplb-global")
    given = ([1, 2, 4], one.physical_LR, made.loads.fit_LE, 4)
    text = placement_file("sglang", *given, model_layers=5)
    data = json.loads(text)
    assert list(data) == ["physical_to_logical_map"]
    rows = data["physical_to_logical_map"]
    assert [len(row) for row in rows] == [16] * 5
    assert rows[0] == [*range(12), *range(4)] == rows[3]
    assert rows[4] == one.physical_LR[2].tolist()
    counts = json.loads(placement_file("sglang-counts", *given, model_layers=5))
    assert list(counts) == ["logical_count"]
    assert counts["logical_count"][1] == made.loads.fit_LE[0].tolist()
    assert sum(counts["logical_count"][0]) == 0
    lines = placement_file("csv", *given, model_layers=None).splitlines()
    assert lines[0] == "layer,device,place,expert"
    assert len(lines) == 1 + 3 * 16
    with pytest.raises(DecisionRefused, match="how many layers"):
        placement_file("sglang", *given, model_layers=None)


def test_dispatch_by_hand(shared_trace: Trace) -> None:
    found = shared_trace.view("dispatch", devices=4, layers="0:1").to_pylist()
    parts = halves(shared_trace, ALL_TOKENS, None, 0)
    ids = shared_trace.prompts()["prompt_id"].to_pylist()
    home = {ids[p]: n % 4 for n, p in enumerate(np.flatnonzero(parts.report_P))}
    sent = np.zeros((4, 4), int)
    for row in rows_of(shared_trace, 1):
        if row["prompt_id"] in home:
            for expert in row["experts"]:
                sent[home[row["prompt_id"]], expert // 3] += 1
    of_layer = [row for row in found if row["layer"] == 1]
    assert [row["sent"] for row in of_layer] == sent.ravel().tolist()
    assert of_layer[0]["local_share"] == pytest.approx(np.trace(sent) / sent.sum())


def test_resize_counts_moves(shared_trace: Trace) -> None:
    table = shared_trace.view("resize", devices=4, to="2,4,6", expert_bytes=10.0).to_pylist()
    # Two of four devices go: half of the experts of three layers. Six devices of two: four experts move in each.
    assert [(row["new_devices"], row["moves"]) for row in table] == [(2, 18), (4, 0), (6, 12)]
    assert [row["moved_bytes"] for row in table] == [180, 0, 120]
    assert table[1]["balancedness"] == pytest.approx(table[1]["balancedness_before"])


def test_what_can_not_be_placed_is_said_in_a_sentence(shared_trace: Trace) -> None:
    for params, said in (
        ({"devices": 13}, "13 devices are more than the 12 experts"),
        ({"devices": 5}, "12 experts do not divide over 5 devices"),
        ({"devices": 4, "methods": "luck"}, "no placement 'luck'"),
        ({"devices": 4, "replicas": 3}, "15 places do not divide over 4 devices"),
    ):
        with pytest.raises(StoreError, match=said):
            shared_trace.view("placement", **params)


def test_counts_only_traces_are_placed_by_load(make_trace: Callable[..., Trace], tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.csv as pc

    from moescope.store import open_trace
    from moescope.store.importers import run

    rng = np.random.default_rng(0)
    rows = [(layer, e, int(rng.integers(1, 100))) for layer in range(2) for e in range(8)]
    table = pa.table(list(zip(*rows, strict=True)), names=["layer", "expert", "count"])
    pc.write_csv(table, tmp_path / "counts.csv")
    run("counts", tmp_path / "counts.csv", str(tmp_path / "made"))
    trace = open_trace(tmp_path / "made")
    made = decide_placement(trace, Cluster(devices=4), seconds=0.2)
    whole = {row["method"]: row for row in made.table.to_pylist() if row["layer"] is None}
    assert whole["milp"]["balancedness"] >= whole["contiguous"]["balancedness"]
    assert whole["milp"]["remote_share"] is None
    notes = " ".join(notes_of(made.table))
    assert "one sequence" in notes
    assert "layer-to-layer traffic is unknown" in notes


def test_the_tree_of_like_experts_by_hand(tmp_path: Path) -> None:
    write_synthetic(
        str(tmp_path / "t"), Synthetic(prompts=2, tokens_per_prompt=4, experts=3, top_k=1, layers=1)
    )
    near = [[1.0, 0.9, 0.1], [0.9, 1.0, 0.3], [0.1, 0.3, 1.0]]
    rows = [{"layer": 0, "stream": "decoder", "expert": e, "output_similarity": near[e]} for e in range(3)]
    write_router_rows(open_folder(tmp_path / "t"), 0, rows, {})
    first, second = open_trace(tmp_path / "t").view("merge-tree").to_pylist()
    assert (first["a"], first["b"], first["experts"]) == (0, 1, 2)
    assert first["similarity"] == pytest.approx(0.9)
    # Average linkage: the third expert is as near as the mean of .1 and .3.
    assert ({second["a"], second["b"]}, second["experts"]) == ({2, 3}, 3)
    assert second["similarity"] == pytest.approx(0.2)

# pyright: reportArgumentType=false
"""The Structure page: every question draws, says its numbers, and finds experts; notes are kept with the library."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from page_test import drawn, text_of
from streamlit.testing.v1 import AppTest

from moescope.app import expert_notes
from moescope.app.figures.structure.cache_curve import pooled
from moescope.app.figures.structure.sankey_layout import OTHER, layout
from moescope.app.screens.structure.find import cell_in
from moescope.app.screens.structure.page import QUESTIONS
from moescope.app.sentences import structure as sentences
from moescope.store import open_trace
from moescope.store.expert_sheet import write_router_rows
from moescope.store.files.folder import open_folder
from moescope.store.write.synthetic import Synthetic, write_synthetic


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    plan = Synthetic(prompts=24, tokens_per_prompt=30, languages=4, experts=8, top_k=2, layers=3)
    write_synthetic(str(folder / "first"), plan)
    one = Synthetic(prompts=1, tokens_per_prompt=2, languages=1, experts=4, top_k=1, layers=1)
    write_synthetic(str(folder / "tiny"), one)
    return folder


def run(library: Path, monkeypatch: pytest.MonkeyPatch, name: str = "first", **state: object) -> AppTest:
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(library))
    return drawn("structure", library / name, **state)


@pytest.mark.parametrize("question", [name for name in QUESTIONS if name != "Reuse"])
@pytest.mark.parametrize("name", ["first", "tiny"])
def test_every_question_draws(library, monkeypatch, question: str, name: str) -> None:
    app = run(library, monkeypatch, name, question=question)
    text = text_of(app)
    assert QUESTIONS[question].asks in [element.value for element in app.subheader]
    if name == "first":
        assert "ms-error" not in text
        assert app.get("vega_lite_chart") or app.get("plotly_chart")
    else:  # too little for most pictures: told, not a fault of ours
        assert "fault in moescope" not in text


def test_the_sentences_hold_the_numbers_of_the_views(library) -> None:
    trace = open_trace(library / "first")
    table = trace.view("explained")
    rows = [row for row in table.to_pylist() if row["label"] == "token"]
    best = max(rows, key=lambda row: row["share"])
    assert f"in layer {best['layer']}" in sentences.explained(table)
    assert f"{best['share'] * 100:.1f}".removesuffix(".0") in sentences.explained(table)
    hits = pooled(trace.view("cache-hits"))
    by_hand = trace.view("cache-hits", policies="lru", sizes="4").to_pylist()
    rate = sum(row["hits"] for row in by_hand) / sum(row["accesses"] for row in by_hand)
    assert f"{rate * 100:.1f}\u202f% with 4 experts" in sentences.caches(hits, 2)
    assert sentences.consistency(trace.view("local-consistency", m="999"), "prompt").startswith(
        "No prompt sequence"
    )
    assert "Mixtral" in sentences.beside_published(0.495)
    assert "Switch" in sentences.beside_published(0.1)


def test_boxes_and_ribbons_hold_all_tokens(library) -> None:
    trace = open_trace(library / "first")
    boxes, ribbons = layout(trace.view("flows", layers="0:2", limit=6))
    total = trace.num_tokens
    for layer in (0, 1):
        leaving = [ribbon for ribbon in ribbons if boxes[ribbon.source].layer == layer]
        assert sum(ribbon.tokens for ribbon in leaving) == total
    for number, box in enumerate(boxes):
        assert 0 <= box.low < box.high <= 1 + 1e-9
        out = [r for r in ribbons if r.source == number]
        assert sum(r.thickness for r in out) <= box.high - box.low + 1e-9
        assert all(box.low - 1e-9 <= r.from_low and r.from_low + r.thickness <= box.high + 1e-9 for r in out)
    assert sum(box.expert == OTHER for box in boxes) == 3
    for column in range(3):
        own = sorted((box for box in boxes if box.column == column), key=lambda box: box.low)
        assert all(a.high < b.low for a, b in pairwise(own))
    assert layout(pa.Table.from_pylist([], schema=trace.view("flows", layers="0:1").schema)) == ([], [])


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("3.17", (3, 17)),
        ("3 17", (3, 17)),
        ("layer 3, expert 17", (3, 17)),
        ("Layer 3 expert 17", (3, 17)),
        ("L3 E17", (3, 17)),
        ("17", None),
        ("the", None),
        ("3.17.2", None),
    ],
)
def test_an_expert_is_found_by_number(text: str, cell: tuple[int, int] | None) -> None:
    assert cell_in(text) == cell


def test_an_expert_is_found_by_number_token_and_tag(library, monkeypatch) -> None:
    app = run(library, monkeypatch, seek="2.5")
    assert "Layer 2, expert 5" in [element.value for element in app.subheader]
    app = app.button(key="close-drawer").click().run()
    assert "Layer 2, expert 5" not in [element.value for element in app.subheader]
    app = app.button(key="seek-again").click().run()
    assert "Layer 2, expert 5" in [element.value for element in app.subheader]
    assert "has experts 0 to 7" in text_of(run(library, monkeypatch, seek="2.99"))
    app = run(library, monkeypatch, seek="German")
    assert "German tokens exceeds" in text_of(app)
    app = run(library, monkeypatch, seek="t1")
    assert "take most occurrences of this token" in text_of(app)
    app = run(library, monkeypatch, seek="nowhere to be found")
    assert "Nothing found" in text_of(app)


def test_the_experts_of_a_tag_are_those_of_the_view(library) -> None:
    trace = open_trace(library / "first")
    best = trace.view("tag-experts", by="language", value="de", limit=1).to_pylist()[0]
    load = trace.view("load", by="language").to_pylist()
    share = {(row["language"], row["layer"], row["expert"]): row["share"] for row in load}
    tokens = {row["language"]: row["tokens"] for row in load}
    others = [language for language in tokens if language != "de"]

    def difference(layer: int, expert: int) -> float:
        rest = sum(share[other, layer, expert] * tokens[other] for other in others)
        return share["de", layer, expert] - rest / sum(tokens[other] for other in others)

    found = max(difference(layer, expert) for layer in range(3) for expert in range(8))
    assert best["difference"] == pytest.approx(found)
    assert np.isclose(best["difference"], difference(best["layer"], best["expert"]))


def test_a_note_is_kept_with_the_library_and_found_again(library, monkeypatch) -> None:
    app = run(library, monkeypatch, seek="1.3")
    app.text_area[0].set_value("likes <b>commas</b>").run()
    assert not app.exception
    assert expert_notes.load(library, "first") == {"decoder.1.3": "likes <b>commas</b>"}
    again = run(library, monkeypatch, seek="1.3")
    assert again.text_area[0].value == "likes <b>commas</b>"
    again.text_area[0].set_value(" ").run()
    assert expert_notes.load(library, "first") == {}


def test_notes_that_cannot_be_read_are_told_and_kept(tmp_path: Path) -> None:
    assert expert_notes.load(tmp_path / "nowhere", "t") == {}
    expert_notes.save(tmp_path, "t", "decoder.0.1", "x" * 9000)
    expert_notes.save(tmp_path, "u", "decoder.0.1", "y")
    assert len(expert_notes.load(tmp_path, "t")["decoder.0.1"]) == expert_notes.LONGEST
    (tmp_path / expert_notes.FILE).write_text("{broken")
    with pytest.raises(expert_notes.NotesError, match="cannot be read"):
        expert_notes.save(tmp_path, "t", "decoder.0.1", "z")
    assert (tmp_path / expert_notes.FILE).read_text() == "{broken"
    (tmp_path / expert_notes.FILE).write_text('{"version": 99, "notes": {}}')
    with pytest.raises(expert_notes.NotesError, match="newer moescope"):
        expert_notes.load(tmp_path, "t")


def test_the_sheet_tells_the_last_contrasts(library, monkeypatch) -> None:
    params = {"by": "language", "target": "de", "measure": "rate"}
    kept = [(str(library / "first"), ("German", "all others"), params)]
    app = run(library, monkeypatch, seek="1.3", **{"last contrasts": kept})
    row = open_trace(library / "first").view("resonance", **params).to_pylist()
    mine = next(r for r in row if (r["layer"], r["expert"]) == (1, 3))
    assert f"German against all others: score {mine['score']:+.3f}" in text_of(app)
    assert f"rank {mine['rank']}." in text_of(app)
    assert f"Run: moescope weigh MODEL --trace {library / 'first'}".split(" MODEL")[0] in text_of(app)


def test_an_expert_tells_its_weights_where_they_were_measured(library, monkeypatch) -> None:
    weighed = library / "weighed"
    shutil.copytree(library / "first", weighed)
    cosine_EE = np.eye(8) * 0.5 + 0.1
    cosine_EE[3, 6] = cosine_EE[6, 3] = 0.9
    rows = [
        {"layer": 1, "stream": "decoder", "expert": e, "matrices": ["up<b>"], "norms": [5.0 + e], "router_norm": 2.0}
        | {"router_cosine": cosine_EE[e].tolist()}
        for e in range(8)
    ]  # fmt: skip
    write_router_rows(open_folder(weighed), 1, rows, {})
    text = text_of(run(library, monkeypatch, "weighed", seek="1.3"))
    assert "Norms: its row of the router 2 (rank 1 of 8, layer mean 2); up&lt;b&gt; 8 (rank 5 of 8" in text
    assert "most like that of expert 6: cosine 0.90" in text
    assert "moescope weigh" not in text


def test_pairs_and_the_next_layer(library, monkeypatch) -> None:
    app = run(library, monkeypatch, question="Paths", pairs="to the next layer")
    trace = open_trace(library / "first")
    table = [row for row in trace.view("transitions", layer=0).to_pylist() if row["pairs"] >= 50]
    best = max(table, key=lambda row: row["lift"])
    assert f"Expert {best['from_expert']} of layer 0 and expert {best['to_expert']} of layer 1" in text_of(
        app
    )
    total = sum(row["pairs"] for row in trace.view("transitions", layer=0).to_pylist())
    arriving = sum(
        row["pairs"]
        for row in trace.view("transitions", layer=0).to_pylist()
        if row["to_expert"] == best["to_expert"]
    )
    assert best["lift"] == pytest.approx(best["share"] / (arriving / total))


def test_all_other_flows_are_left_out_where_they_would_press_the_rest_flat(library) -> None:
    trace = open_trace(library / "first")
    few = trace.view("flows", layers="0:2", limit=1)
    boxes, ribbons = layout(few)
    assert few.num_rows == 4
    assert len(ribbons) == 2
    assert all(box.expert != OTHER for box in boxes)

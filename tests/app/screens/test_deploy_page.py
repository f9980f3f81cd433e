"""The Deploy page: every tab answers on a trace with an expert sheet, and says what it lacks on one without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from page_test import drawn, text_of
from streamlit.testing.v1 import AppTest

from moescope.app.screens.deploy.page import QUESTIONS
from moescope.store.expert_sheet import write_router_rows
from moescope.store.files.folder import open_folder
from moescope.store.write.synthetic import Synthetic, write_synthetic

EXPERTS, LAYERS = 8, 3


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    plan = Synthetic(prompts=24, tokens_per_prompt=30, languages=4, experts=EXPERTS, top_k=2, layers=LAYERS)
    for name in ("plain", "weighed"):
        write_synthetic(str(folder / name), plan)
    rng = np.random.default_rng(0)
    for router in range(LAYERS):
        vectors = rng.normal(size=(EXPERTS, 4))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        near = vectors @ vectors.T
        rows = [
            {"layer": router, "stream": "decoder", "expert": e, "bits": [2, 3, 4], "rtn_error": [3.0, 1.5, 0.5],
             "reap": float(rng.random()), "easy_ep": float(rng.random()), "bytes": 2_000_000,
             "output_similarity": near[e].tolist()}
            for e in range(EXPERTS)
        ]  # fmt: skip
        write_router_rows(open_folder(folder / "weighed"), router, rows, {})
    return folder


def run(library: Path, monkeypatch: pytest.MonkeyPatch, name: str, **state: object) -> AppTest:
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(library))
    return drawn("deploy", library / name, **state)


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_tab_answers_in_words_with_its_alternatives(
    library: Path, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    app = run(library, monkeypatch, "weighed", decide=question)
    text = text_of(app)
    assert "could not be drawn" not in text, text
    said = {
        "Place": "on prompts that it was not fitted on",
        "Cache and offload": "of accesses hit with",
        "Prune": "of all choices went to them",
        "Bits": "of the error of random allocations",
        "Merge and calibrate": "in random clusters of the same sizes",
    }
    assert said[question] in text
    assert "Fitted on" in text or question in ("Prune", "Merge and calibrate")


def test_tabs_that_need_weights_say_what_to_run(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for question in ("Bits", "Merge and calibrate", "Prune"):
        text = text_of(run(library, monkeypatch, "plain", decide=question))
        assert "moescope weigh" in text, question


def test_devices_that_do_not_divide_are_told_on_the_page(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "8 experts do not divide over 3 devices" in text_of(run(library, monkeypatch, "plain", devices=3))


def test_the_files_of_the_page_hold_what_the_commands_write(library: Path) -> None:
    from moescope.app.screens.deploy import bits, calibrate, place
    from moescope.app.shell.page_context import PageContext
    from moescope.store import open_trace

    url = str(library / "weighed")
    context = PageContext(url=url, name="weighed", trace=open_trace(url))
    ask = {"devices": 4, "nodes": 1, "replicas": 0, "layers": "0:2"}
    lines = place._file(context, ask, "greedy", "csv").splitlines()
    assert len(lines) == 1 + LAYERS * EXPERTS
    recipe = json.loads(
        bits._file(context, {"levels": "2,3,4", "scope": "model", "layers": "0:2"}, 2.5, "json")
    )
    assert sum(row["bits"] for row in recipe["experts"]) <= 2.5 * LAYERS * EXPERTS
    assert len(calibrate._lines(context, 5, "0:2").splitlines()) == 5


def test_a_live_model_measures_what_pruning_costs(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moescope.app.screens.deploy import preview
    from moescope.app.screens.steer.server import Served

    asked: list[object] = []

    class Model:
        def score(self, prompts, *, steering=None):
            asked.append(steering)
            kept = 8 if steering is None else len(steering["rules"][0]["experts"])
            row = {"tokens": 10, "logprob": -10.0 * (1 + (8 - kept) / 8)}
            return {"prompts": [{"base" if steering is None else "steered": row} for _ in prompts]}

    monkeypatch.setattr(preview, "running", lambda context: None)
    assert "model on the Steer page: perplexity by language" in text_of(
        run(library, monkeypatch, "plain", decide="Prune")
    )
    monkeypatch.setattr(preview, "running", lambda context: Served(model="m", client=Model()))  # pyright: ignore[reportArgumentType]
    app = run(library, monkeypatch, "plain", decide="Prune", keep=0.5)
    app.button(key="prune-measure").click().run()
    assert not app.exception
    assert "perplexity 2.718 with all experts, 4.482 with those that gate weight keeps" in text_of(app)
    assert asked[0] is None
    assert len(asked) == 6  # gate, frequency, three random choices
    assert {tuple(r["layers"]) for r in asked[1]["rules"]} == {(0,), (1,), (2,)}  # pyright: ignore[reportIndexIssue]


def test_a_preview_chooses_by_one_half_and_asks_prompts_of_the_other(library: Path) -> None:
    from moescope.store import open_trace
    from moescope.store.read.token_filter import ALL_TOKENS
    from moescope.store.views.deploy.halves import halves
    from moescope.store.views.deploy.preview import prune_plan
    from moescope.store.views.deploy.scores import scores_of

    trace = open_trace(str(library / "plain"))
    plan = prune_plan(trace, keep=0.5, score="gate", layers=None, stream="decoder", tokens=ALL_TOKENS)
    parts = halves(trace, ALL_TOKENS, None, 0)
    ids = np.array(trace.prompts()["prompt_id"].to_pylist())
    assert {row["id"] for row in plan.prompts} == set(ids[parts.report_P])
    gate = scores_of(trace, 1, "decoder", ALL_TOKENS, parts.fit_P)["gate"]
    kept = {cell.expert for cell in plan.kept["gate"] if cell.layer == 1}
    assert kept == set(np.argsort(-gate)[:4].tolist())
    assert all(len(cells) == 4 * LAYERS for cells in plan.kept.values())

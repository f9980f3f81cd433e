"""What the job panel says of a trace that is being made."""

import json
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from moescope.app.screens.library.jobs_panel import progress_words
from moescope.app.steering.evaluations import Pace
from moescope.tracer.evaluate.saved import EvaluationStatus
from moescope.tracer.jobs.jobs import GO, Job, Status, write_status


def test_splitting_a_dense_model_is_counted_in_layers():
    status = Status(state="splitting", layers=3, total_layers=30)
    assert progress_words(status) == "splitting the layers into groups of neurons, 3 of 30 layers"


def test_tracing_after_a_split_speaks_of_prompts():
    status = Status(
        state="running", layers=30, total_layers=30, prompts=2, total_prompts=5, tokens_per_s=1200.0
    )
    assert progress_words(status) == "tracing, 2 of 5 prompts, 1,200 tokens/s"


def test_generation_is_told_token_by_token():
    status = Status(
        state="running", prompts=8, total_prompts=40, tokens_per_s=3.0, generating=4, step=17, steps=32
    )
    assert progress_words(status) == "tracing, 8 of 40 prompts, token 17 of at most 32 of the next 4 answers"


def test_the_time_left_goes_down_while_a_long_batch_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Job, "_alive", lambda job: True)
    job = Job(tmp_path / "long.job")
    job.folder.mkdir()
    write_status(job.folder, Status(state="running", prompts=8, total_prompts=16, eta_s=60.0))
    now = time.time()
    for later, told in ((20, "40 s left"), (61, "taking longer than estimated")):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        assert progress_words(job.status()) == f"tracing, 8 of 16 prompts, {told}"


def test_the_time_left_of_an_evaluation_goes_down_while_a_step_runs():
    pace = Pace()
    seen = [pace.left(EvaluationStatus(done=done, total=10, scoring=10, seconds=seconds))
            for done, seconds in ((1, 5.0), (2, 7.0), (2, 8.5), (2, 30.0), (3, 31.0))]  # fmt: skip
    # 2 s a step after the first, 8 to come; then 13 s a step, 7 to come.
    assert seen == pytest.approx([None, 16.0, 14.5, 0.0, 91.0])


def test_a_trace_that_asks_shows_its_cost_and_takes_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Job, "_alive", lambda job: True)
    for name in ("large", "larger"):
        job = Job(tmp_path / f"{name}.job")
        job.folder.mkdir()
        asked = {"model": "m", "prompts": "p", "out": str(job.out), "options": {}}
        (job.folder / "job.json").write_text(json.dumps(asked))
        write_status(
            job.folder, Status(state="asking", prompts=16, total_prompts=400, eta_s=200.0, bytes=12e6)
        )

    def page(folder: str) -> None:
        from pathlib import Path

        from moescope.app.screens.library import jobs_panel
        from moescope.tracer.jobs.jobs import Job

        for name in ("large", "larger"):
            jobs_panel.draw_one(Job(Path(folder) / f"{name}.job"), place="beside-")

    app = AppTest.from_function(page, args=(str(tmp_path),)).run()
    assert not app.exception
    assert (
        "large: 400 prompts would take about 3 min 20 s more and 12 MB of disk, judged by the first 16."
        in (" ".join(html.proto.body for html in app.get("html")))
    )
    app.button(key="go-on-beside-large").click().run()
    assert (tmp_path / "large.job" / GO).exists()
    assert not (tmp_path / "larger.job" / GO).exists()

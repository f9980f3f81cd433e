"""The Evaluate tab and its figures: the job runs on a server, its controls stand beside the effect."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from moescope.app import export
from moescope.app.figures import steer_effects as figures
from moescope.app.figures.theme import DARK, LIGHT
from moescope.app.screens.steer import evaluation_settings
from moescope.app.sentences import evaluation as sentences_steer
from moescope.app.text import words
from moescope.store import library_edit, sample_dir
from moescope.tracer import PromptSet, Steering, load_model
from moescope.tracer.evaluate.compare import Compared, compare_evaluations
from moescope.tracer.evaluate.dose import dose_table
from moescope.tracer.evaluate.run import evaluate
from moescope.tracer.evaluate.saved import SavedEvaluation, list_evaluations, new_evaluation
from moescope.tracer.serve.engine.served import Served
from moescope.tracer.serve.server import serve_in_background

PROFILE = {"name": "no Japanese", "rules": [
    {"rule": "off", "layers": [5], "experts": [25]}, {"rule": "off", "layers": [7], "experts": [8, 25]},
]}  # fmt: skip
TEXTS = {"ja": ["設定を保存します。", "行を選択します。"], "en": ["Saves the settings.", "Selects the row."]}


@pytest.fixture(scope="module")
def model():
    return load_model(str(sample_dir() / "model"), dtype="float32")


@pytest.fixture(scope="module")
def address(model):
    with serve_in_background(lambda: Served.of(model.model, model.tokenizer)) as address:
        assert address.engine.wait_ready(60)
        yield address


@pytest.fixture(scope="module")
def found():
    """An evaluation of a tiny prompt set, with a dose curve in it."""
    loaded = load_model(str(sample_dir() / "model"), dtype="float32")
    rows = [
        {"text": t, "language": code, "parallel_id": f"u{n}"}
        for code, texts in TEXTS.items()
        for n, t in enumerate(texts)
    ]
    return evaluate(loaded.model, loaded.tokenizer, PromptSet.from_rows(rows), Steering(PROFILE["rules"]))


@pytest.fixture(autouse=True)
def library(tmp_path, monkeypatch):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(tmp_path))
    return tmp_path


def script(profile: str, url: str, token: str) -> None:
    """The script of an AppTest: the tab, and a page without it to switch to."""
    import json

    import streamlit as st

    from moescope.app.screens.steer.evaluate import evaluate_tab
    from moescope.tracer.client import connect

    if st.session_state.get("elsewhere"):
        st.title("another page")
    else:
        evaluate_tab(json.loads(profile), "sample", connect(url, token) if url else None)


def start(profile, address=None) -> AppTest:
    given = {"url": address.url, "token": address.token} if address else {"url": "", "token": ""}
    kwargs = {"profile": json.dumps(profile), **given}
    return well(AppTest.from_function(script, kwargs=kwargs, default_timeout=60).run())


def well(app: AppTest) -> AppTest:
    assert not app.exception, [error.message for error in app.exception]
    return app


def shown(app: AppTest) -> str:
    return " ".join(element.proto.body for element in app.get("html"))


def kept() -> list[SavedEvaluation]:
    return list_evaluations(Path(os.environ["MOESCOPE_LIBRARY"]))


def linked(evaluation: str, profile=None) -> AppTest:
    """A session of its own that begins with a link."""
    given = {"profile": json.dumps(profile or {}), "url": "", "token": ""}
    app = AppTest.from_function(script, kwargs=given, default_timeout=60)
    app.query_params["evaluation"] = evaluation
    return well(app.run())


def until_done(app: AppTest) -> AppTest:
    for _ in range(300):
        app = well(app.run())
        if all(saved.status().ended for saved in kept()):
            return well(app.run())
        time.sleep(0.1)
    raise AssertionError("the evaluation did not end")


def test_without_a_model_or_a_profile_it_says_what_would_be_here(address):
    assert "No model to evaluate with" in shown(start(PROFILE))
    assert "Nothing is steered yet" in shown(start({"rules": []}, address))


def test_an_evaluation_runs_on_the_server_and_its_result_stays(address):
    app = start(PROFILE, address)
    app.selectbox(key="evaluate-target").set_value("ja")
    app.number_input(key="evaluate-most").set_value(2)
    assert app.number_input(key="evaluate-draws").value == 19
    app.number_input(key="evaluate-draws").set_value(5)
    well(app.run())
    assert "24 prompts, each under 8 steerings" in shown(app)
    app.button(key="evaluate-start").click()
    app = until_done(well(app.run()))
    text = shown(app)
    assert "On Japanese, the profile changes perplexity by +" in text
    assert "5 draws of as many random experts by" in text
    assert "inding" in text
    rows = app.dataframe[0].value
    assert {"random_low", "layers", "opposite", "finding", "p_draws"} <= set(rows.columns)
    assert set(rows["group"]) >= {"all", "ja", "ja − others"}
    app.session_state["elsewhere"] = True
    well(app.run())
    app.session_state["elsewhere"] = False
    assert "On Japanese, the profile changes perplexity by" in shown(well(app.run()))
    # A new session, as after a reload or a restart of the app.
    (saved,) = kept()
    again = linked(saved.id)
    assert "On Japanese, the profile changes perplexity by" in shown(again)
    assert "This evaluation is of its own profile" in shown(again)
    assert rows.equals(again.dataframe[0].value)
    snippets = [code.value for code in again.code if "with_controls" in code.value]
    said = {"log perplexity": "log_perplexity", "bits per byte": "bits_per_byte", "KL": "kl"}
    run_snippet(snippets[0], rows.replace({"measure": said | {"routing changed": "changed"}}))


def run_snippet(code: str, rows: pd.DataFrame) -> None:
    """The lines under the table, pasted into a Python of their own, make the table of the page."""
    code += "\nprint(table.select(['measure', 'group', 'change', 'low', 'p_draws']).to_pandas().to_json())\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    made = pd.read_json(io.StringIO(done.stdout))
    expected = rows.loc[:, list(made.columns)]
    pd.testing.assert_frame_equal(made, expected, check_dtype=False, check_index_type=False, rtol=1e-6)


def test_a_link_to_an_evaluation_that_is_not_here_says_so():
    assert "“off-on-udhr-123456”, which is not in this library" in shown(linked("off-on-udhr-123456"))


def test_evaluations_stand_beside_one_another_and_go_to_the_bin(found, library):
    asked = {
        "model": "sample", "profile": PROFILE, "prompt_set": "tiny", "by": "language", "target": "ja", "classes": None,
        "prompts": [{"id": name, "text": "x"} for name in found.prompt_ids], "variants": 8, "trace": None,
        "options": {"controls": 5, "max_new_tokens": 0},
    }  # fmt: skip
    saved = []
    for name in ("first", "second"):
        saved.append(new_evaluation(library, {**asked, "name": name}))
        saved[-1].keep(found.to_json(), seconds=2.0)
    assert [one.name for one in kept()] == ["second", "first"]
    app = linked(saved[1].id, PROFILE)
    app.multiselect(key=f"evaluation-beside-{saved[1].id}").set_value([saved[0].id])
    assert "prompt by prompt it differs from the first by 0\u202f%" in shown(well(app.run()))
    app.button(key="evaluation-delete").click()
    well(app.run())
    assert [one.name for one in kept()] == ["first"]
    (binned,) = library_edit.binned(library)
    assert library_edit.restore(library, binned) == saved[1].folder
    assert [one.name for one in kept()] == ["second", "first"]


def test_a_dose_curve_and_answers(address):
    app = start(PROFILE, address)
    app.number_input(key="evaluate-most").set_value(1)
    app.number_input(key="evaluate-draws").set_value(0)
    app.number_input(key="evaluate-tokens").set_value(2)
    app.segmented_control(key="evaluate-dose").set_value("number of experts")
    well(app.run())
    app.text_area(key="evaluate-classes").set_value("letters: [a-z]")
    app.text_input(key="evaluate-doses number of experts").set_value("1, 3, 9")
    well(app.run())
    app.button(key="evaluate-start").click()
    app = until_done(well(app.run()))
    text = shown(app)
    assert "No controls were run." in text
    assert "At dose 3 the effect on all is" in text
    assert "behaviour: letters" in set(app.dataframe[0].value["measure"])
    assert list(app.dataframe[1].value.columns) == ["prompt", "base", "steered"]


def test_a_job_can_be_cancelled_and_one_that_was_lost_is_said(address):
    app = start(PROFILE, address)
    app.number_input(key="evaluate-most").set_value(2)
    app.number_input(key="evaluate-draws").set_value(5)
    well(app.run())
    app.button(key="evaluate-start").click()
    well(app.run())
    (saved,) = kept()
    app.button(key=f"evaluate-cancel-{saved.id}").click()
    app = until_done(well(app.run()))
    assert saved.status().state == "cancelled"
    assert "Cancelled before its end" in shown(app)
    # The app ended while it ran: nobody writes its status any more.
    path = saved.folder / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "running", "updated": 1.0}))
    text = shown(well(app.run()))
    assert "The evaluation was lost" in text
    assert "ended before the evaluation did" in text
    app.button(key="evaluation-again").click()
    app = until_done(well(app.run()))
    assert "On all prompts, the profile changes perplexity by" in shown(app)
    assert [one.status().state for one in kept()] == ["complete", "lost"]


def test_the_difference_of_two_evaluations_is_taken_prompt_by_prompt(found):
    other = replace(found, variants={**found.variants, "profile": found.variants["random 1"]})
    pair = [Compared(name=name, evaluation=one, by="language") for name, one in (("a", found), ("b", other))]
    row = compare_evaluations(pair, "perplexity", "ja").to_pylist()[1]
    ja = [place for place, language in enumerate(found.groups["language"]) if language == "ja"]
    nll = {name: found.variants[name].nll_P[ja].sum() for name in ("profile", "random 1")}
    wanted = math.exp((nll["random 1"] - nll["profile"]) / found.base.tokens_P[ja].sum()) - 1
    assert row["difference"] == pytest.approx(wanted, rel=1e-9)
    assert row["not_paired"] is None
    elsewhere = replace(other, prompt_ids=[f"{name}!" for name in other.prompt_ids])
    table = compare_evaluations([pair[0], replace(pair[1], evaluation=elsewhere)], "perplexity", "ja")
    assert (table["not_paired"][1].as_py(), table["difference"][1].as_py()) == ("other prompts", None)


def test_what_cannot_be_run_is_said_before(address):
    app = start(PROFILE, address)
    app.segmented_control(key="evaluate-dose").set_value("amount")
    assert "No rule of the profile has an amount" in shown(well(app.run()))
    assert not [b for b in app.button if b.key == "evaluate-start"]
    app.segmented_control(key="evaluate-dose").set_value("none")
    app.number_input(key="evaluate-tokens").set_value(2)
    well(app.run())
    app.text_area(key="evaluate-classes").set_value("bad: (")
    assert "is not a regular expression" in shown(well(app.run()))


def test_the_first_prompts_of_each_language_are_the_same_texts():
    prompts = PromptSet.from_file(sample_dir() / "help_parallel.csv")
    some = evaluation_settings.first_of_each(prompts, "language", 3)
    assert len(some) == 36
    assert len({prompt.parallel_id for prompt in some}) == 3


def test_the_ranking_of_a_profile(address):
    assert evaluation_settings.cells_of(PROFILE) == [[5, 25], [7, 8], [7, 25]]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_the_figures_render_with_every_control(found, theme):
    table = found.effects("language", target="ja")
    for measure in ("perplexity", "kl", "changed"):
        chart = figures.effects_chart(table, measure, by="language", theme=theme, width=700)
        svg = export.to_svg(export.specification(chart)).decode()
        for word in ("Japanese", "the profile", "random experts", "other layers", "opposite sign"):
            assert word in svg
        assert svg.lower().count(theme.steered) >= 4


def test_the_sentence_says_what_may_be_said(found):
    table = found.effects("language", target="ja")
    own = next(
        row for row in table.to_pylist()
        if (row["kind"], row["measure"], row["group"]) == ("profile", "perplexity", "ja")
    )  # fmt: skip
    said = sentences_steer.effect(table, "perplexity", "language", "ja")
    assert words.percent(own["change"], signed=True) in said
    assert ("That is a finding on Japanese" in said) == own["finding"]


def test_doses_are_what_the_axis_names(found):
    found = replace(found, variants=dict(found.variants), kinds=dict(found.kinds))
    for number, dose in enumerate(("1", "2", "8")):
        found.variants[dose], found.kinds[dose] = found.variants[f"random {number + 1}"], "dose"
    chart = figures.dose_chart(dose_table(found, "language", target="ja"), "effect", by="language").to_dict()
    axes = [layer["encoding"]["x"]["axis"]["values"] for layer in chart["layer"]]
    assert axes == [[1, 2, 8]] * len(axes)


def test_the_profile_stands_above_its_controls(found):
    table = found.effects("language", target="ja")
    chart = figures.effects_chart(table, "perplexity", by="language").to_dict()
    lanes = chart["layer"][-1]["encoding"]["yOffset"]["scale"]
    assert lanes["domain"] == [-1, 1]
    assert lanes["range"][0] == 0 < lanes["range"][1]
    (data,) = [rows for rows in chart["datasets"].values() if len(rows) > 1]
    for group in {row["group name"] for row in data}:
        shifts = {row["variant"]: row["shift"] for row in data if row["group name"] == group}
        assert min(shifts, key=shifts.__getitem__) == "profile"


def test_dose_figure_and_sentence(found):
    found = replace(found, variants=dict(found.variants), kinds=dict(found.kinds))
    found.variants |= {"1": found.variants["random 1"], "1 random 1": found.variants["random 2"]}
    found.kinds |= {"1": "dose", "1 random 1": "dose"}
    table = dose_table(found, "language", target="ja")
    svg = export.to_svg(export.specification(figures.dose_chart(table, "side effect", width=600))).decode()
    assert "side effect on others" in svg
    assert (
        "effect on Japanese"
        in export.to_svg(
            export.specification(figures.dose_chart(table, "effect", by="language", width=600))
        ).decode()
    )
    assert "At dose 1 the effect on Japanese is log perplexity" in sentences_steer.dose(table, "language")
    plain = dose_table(found)
    assert (
        "KL"
        in export.to_svg(export.specification(figures.dose_chart(plain, "side effect", width=600))).decode()
    )

"""Each control of the Alignment page against numbers computed from the trace by hand."""

# The types that pandas declares for groupby and itertuples do not know their columns.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportReturnType=false, reportCallIssue=false
# pyright: reportOptionalSubscript=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false

import numpy as np
import pandas as pd
import pytest
from page_test import drawn, text_of
from streamlit.testing.v1 import AppTest

from moescope.app.figures.alignment import by_layer, common_domain
from moescope.app.figures.specialised import kinds_map
from moescope.app.screens.alignment.experts import promoted, strongest
from moescope.app.screens.alignment.tables import LanguageTable
from moescope.app.shell.page_context import PageContext
from moescope.app.steering import profiles
from moescope.store import open_trace
from moescope.store.views.alignment.resource_classes import resource_class
from moescope.store.views.alignment.scripts import script_of
from moescope.store.write.synthetic import Synthetic, write_synthetic


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    plan = {"prompts": 48, "languages": 4, "experts": 8, "top_k": 2}
    write_synthetic(str(folder / "first"), Synthetic(**plan, layers=3))
    write_synthetic(str(folder / "second"), Synthetic(**plan, layers=4, seed=3))
    return folder


def run(library, monkeypatch, **state) -> AppTest:
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(library))
    return drawn("alignment", library / "first", **state)


def divergences(folder, *, special: bool = True) -> pd.DataFrame:
    """language, layer, divergence from English: the definition, one pair after another."""
    trace = open_trace(folder)
    prompts = trace.prompts().to_pandas()
    rows = []
    for spec in trace.routers:
        sums = trace.rollups(spec.layer)
        assert sums.probability_sum is not None
        mean = {}
        for number in range(len(prompts)):
            mine = (sums.prompt_R == number) & (special | ~sums.special_R)
            q = sums.probability_sum[mine].sum(0, dtype=float)
            mean[prompts["prompt_id"][number]] = q / q.sum()
        english = prompts[prompts["language"] == "en"].set_index("parallel_id")["prompt_id"]
        for row in prompts[prompts["language"] != "en"].itertuples():
            p, q = mean[row.prompt_id], mean[english[row.parallel_id]]
            h = [-(x * np.log(x)).sum() for x in (p, q, (p + q) / 2)]
            jsd = h[2] - (h[0] + h[1]) / 2
            d = jsd / (np.log(len(p)) - (h[0] + h[1]) / 2)
            rows.append({"language": row.language, "layer": spec.layer, "divergence": d})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("special", [True, False])
def test_the_switch_of_template_tokens_reaches_the_numbers(library, monkeypatch, special):
    text = text_of(run(library, monkeypatch, special=special))
    by = divergences(library / "first", special=special).groupby(["language", "layer"])["divergence"].mean()
    mean = by.groupby("layer").mean()
    near = mean.idxmin()
    assert f"nearest to English in layer {near} (mean divergence {mean[near]:.3f})" in text
    assert f"Special and template tokens are {'counted' if special else 'left out'}." in text


def test_scores_of_a_table_are_correlated_in_the_window(library, monkeypatch):
    scores = {"de": 0.2, "fr": 0.9, "es": 0.4}
    app = run(
        library, monkeypatch, aligned=(1, 2), **{"language table": LanguageTable(scores={"score": scores})}
    )
    by = divergences(library / "first").query("1 <= layer <= 2").groupby("language")["divergence"].mean()
    expected = pd.Series(scores).corr(by)
    rank = pd.Series(scores).rank().corr(by.rank())
    text = text_of(app)
    assert f"Pearson r = {expected:+.2f}" in text
    assert f"Spearman r = {rank:+.2f}" in text
    assert "score" in app.selectbox(key="lines").options


def test_other_traces_stand_beside_it_on_one_axis(library, monkeypatch):
    text = text_of(run(library, monkeypatch, beside=["second"]))
    mean = divergences(library / "second")["divergence"].mean()
    assert f"Mean over languages and layers {mean:.3f}" in text
    assert "All charts share one vertical axis." in text


def test_lines_can_be_coloured_by_what_languages_share(library, monkeypatch):
    table = LanguageTable(classes={"resource": {"de": "high", "fr": "low"}})
    app = run(library, monkeypatch, lines="resource", **{"language table": table})
    options = app.selectbox(key="lines").options
    assert options[:3] == ["language family", "script", "resource class"]
    assert "group" in options
    lines = open_trace(library / "first").view("alignment", resamples=20)
    chart = by_layer(
        lines, "divergence", label="d", classes=("resource", table.classes["resource"])
    ).to_dict()
    found = [rows for rows in chart["datasets"].values() if "class" in rows[0]]
    assert len(found) == 2  # the lines, and the names at their ends
    for data in found:
        classes = {(row["language"], row["class"]) for row in data}
        assert classes == {("de", "high"), ("fr", "low"), ("es", "unknown")}


def test_promoted_experts_are_those_above_tau_in_the_window(library, monkeypatch):
    app = run(library, monkeypatch, aligned=(2, 2), tau=0.2, promote="hard")
    trace = open_trace(library / "first")
    prompts = trace.prompts().to_pandas().set_index("prompt_id")
    events = trace.events(layer=2, columns=["prompt_id", "position", "experts"]).to_pandas()
    tokens = events.groupby("prompt_id")["position"].nunique()
    slots = events.explode("experts")
    rate = slots.groupby(["prompt_id", "experts"]).size().unstack(fill_value=0).div(tokens, axis=0)
    rate = rate.groupby(
        [prompts["parallel_id"].reindex(rate.index), prompts["language"].reindex(rate.index)]
    ).mean()
    more = rate.unstack().stack(level=0, future_stack=True).sub(rate.xs("en", level=1).stack(), axis=0)
    mean = more.groupby(level=1).mean().drop(columns="en")
    expected = sorted(int(expert) for expert in mean.index[(mean > 0.2).any(axis=1)])
    app.button(key="promote-steer").click().run()
    made = profiles.from_address(app.session_state["travel"][1]["profile"])
    assert made["rules"] == [{"rule": "on", "layers": [2], "experts": expected}]


def test_the_task_is_promoted_before_the_others():
    import pyarrow as pa

    rows = [{"layer": 1, "expert": 2, "language": "de"}, {"layer": 1, "expert": 3, "language": None}]
    rows.append({"layer": 4, "expert": 5, "language": None})
    assert promoted(pa.Table.from_pylist(rows), (0, 2)) == ({(1, 3)}, True)
    assert promoted(pa.Table.from_pylist(rows[:1]), (0, 2)) == ({(1, 2)}, False)


def test_the_map_has_the_kind_of_every_cell(library):
    trace = open_trace(library / "first")
    experts = trace.view("specialised-experts", tau=0.2, resamples=20)
    context = PageContext(url=str(library / "first"), name="first", trace=trace)
    chart = kinds_map(strongest(context, experts)).to_dict()
    (data,) = chart["datasets"].values()
    assert len(data) == 3 * 8
    rows = experts.to_pylist()
    for cell in data:
        mine = [row for row in rows if (row["layer"], row["expert"]) == (cell["layer"], cell["expert"])]
        assert cell["kind"] == (
            "none" if not mine else "language-specific" if len(mine) == 1 else "multilingual"
        )
        assert cell["delta"] == max((row["delta"] for row in mine), default=0.0)
    assert {cell["kind"] for cell in data} == {"none", "language-specific", "multilingual"}


def test_one_axis_holds_every_band():
    import pyarrow as pa

    tables = [
        pa.table({"d": [0.5], "low": [0.4], "high": [0.6]}),
        pa.table({"d": [0.2], "low": [None], "high": [0.9]}),
    ]
    low, high = common_domain(tables, "d")
    assert 0.15 < low <= 0.2
    assert 0.9 <= high < 0.95


def test_languages_know_their_script_and_their_tags(library):
    assert script_of(["Всё ясно, ok"]) == "Cyrillic"
    assert script_of(["これは日本語です"]) == "Japanese"
    assert script_of(["这是中文"]) == "Han"
    assert script_of(["한국어"]) == "Hangul"
    assert script_of(["123 …"]) is None
    trace = open_trace(library / "first")
    by = trace.view("language-classes").to_pylist()
    assert {row["class"] for row in by} == {"Latin"}
    assert {row["class"] for row in trace.view("language-classes", by="group").to_pylist()} == {"several"}
    resources = trace.view("language-classes", by="resources").to_pylist()
    assert {row["language"]: row["class"] for row in resources} == dict.fromkeys(
        ("de", "en", "es", "fr"), "class 5"
    )


def test_resource_classes_are_those_of_the_published_list():
    # lang2tax of Joshi et al., 2020: english 5, portuguese 4, ukrainian 3, swahili 2, telugu and cantonese 1.
    published = {"en": 5, "eng_Latn": 5, "zh-Hant": 5, "pt-BR": 4, "uk": 3, "swh": 2, "te": 1, "yue": 1}
    assert {code: resource_class(code) for code in published} == {
        c: f"class {n}" for c, n in published.items()
    }
    assert resource_class("tlh") is None

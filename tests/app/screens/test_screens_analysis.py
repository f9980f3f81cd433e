# pyright: reportArgumentType=false
"""The alignment and resonance pages: they draw, say what they show, and end in a profile."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from moescope.app import export
from moescope.app.figures import alignment as alignment_figures
from moescope.app.figures import resonance as resonance_figures
from moescope.app.figures.specialised import kinds_by_layer
from moescope.app.figures.theme import DARK, LIGHT
from moescope.app.screens.alignment.tables import read_table
from moescope.app.sentences import alignment as sentences_alignment
from moescope.app.steering import profiles
from moescope.store import StoreError, open_trace
from moescope.store.write.synthetic import Synthetic, write_synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("analysis") / "trace"
    write_synthetic(str(path), Synthetic(prompts=80, languages=4, layers=3, experts=8, top_k=2))
    return path


def draw(name: str, url: str) -> None:
    """The script of an AppTest: one page on one trace."""
    import importlib

    import streamlit as st

    from moescope.app.shell.page_context import PageContext
    from moescope.store import open_trace as reopen

    context = PageContext(url=url, name="trace", trace=reopen(url))
    st.session_state["page context"] = context
    importlib.import_module(f"moescope.app.screens.{name}").page(context)


def run(name, folder, **state):
    app = AppTest.from_function(draw, kwargs={"name": name, "url": str(folder)}, default_timeout=60)
    for key, value in state.items():
        app.session_state[key] = value
    app.run()
    assert not app.exception, [error.message for error in app.exception]
    return app


def words_on(app):
    return " ".join(element.value for element in app.main if element.type == "html") + " ".join(
        str(html.body) for html in app.get("html")
    )


def test_alignment_page_says_where_routing_is_nearest(folder):
    text = words_on(run("alignment", folder))
    assert "Routing is nearest to English in layer" in text
    assert "20 parallel units" in text
    assert "E = 8, k = 2" in text


def test_alignment_page_follows_the_pivot(folder):
    app = run("alignment", folder, pivot="de")
    assert "Routing is nearest to German" in words_on(app)


def test_resonance_page_counts_its_survivors(folder):
    text = words_on(run("resonance", folder, contrast="language", target="de", rest="en"))
    table = open_trace(folder).view("resonance", by="language", target="de", rest="en")
    found = sum(q <= 0.05 for q in table["q"].to_pylist())
    assert f"{found} of 24 experts have q ≤ 0.05" in text
    assert "Two-sided permutation test" in text


def test_a_trace_of_one_language_says_what_is_missing(tmp_path):
    write_synthetic(str(tmp_path / "t"), Synthetic(prompts=6, languages=1, layers=1, experts=4, top_k=1))
    assert "Nothing to align" in words_on(run("alignment", tmp_path / "t"))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_figures_render_to_pictures(folder, theme):
    trace = open_trace(folder)
    lines = trace.view("alignment", resamples=50)
    scan = trace.view("resonance", by="language", target="de", permutations=100)
    pictures = [
        alignment_figures.by_layer(lines, "divergence", label="d", theme=theme, brush=True, chance=0.2),
        alignment_figures.matrix(trace.view("alignment-matrix", resamples=50), theme=theme),
        alignment_figures.scatter(
            trace.view("alignment-scores", scores={"de": 0.5, "fr": 0.4, "es": 0.6}, resamples=50),
            theme=theme,
        ),
        kinds_by_layer(trace.view("specialised-counts").slice(0, 12), theme=theme),
        resonance_figures.volcano(scan, theme=theme),
        resonance_figures.by_layer(scan, theme=theme),
    ]
    for picture in pictures:
        assert export.to_png(export.specification(picture)).startswith(b"\x89PNG")


def test_sentence_of_the_lines_has_the_numbers_of_the_table(folder):
    table = open_trace(folder).view("alignment", resamples=50)
    mean = {}
    for row in table.to_pylist():
        mean.setdefault(row["layer"], []).append(row["divergence"])
    nearest = min(mean, key=lambda layer: sum(mean[layer]))
    expected = f"layer {nearest} (mean divergence {sum(mean[nearest]) / len(mean[nearest]):.3f})"
    assert expected in sentences_alignment.lines(table, "en")


def test_profile_is_one_that_steering_reads():
    from moescope.tracer import Steering

    rules = profiles.rules_by_layer("bias", [(2, 5), (1, 3), (2, 4)], amount=0.5)
    made = json.loads(profiles.as_file(profiles.profile("promote", "model", rules)))
    assert [(rule["layers"], rule["experts"]) for rule in made["rules"]] == [([1], [3]), ([2], [4, 5])]
    assert len(Steering.from_json(made).rules) == 2


def test_uploaded_tables_are_read_or_refused_by_row():
    table = read_table(b"language,score,resource\nde,0.5,high\nfr,1,low\nsw,,low\n")
    assert table.scores == {"score": {"de": 0.5, "fr": 1.0}}
    assert table.classes == {"resource": {"de": "high", "fr": "low", "sw": "low"}}
    with pytest.raises(StoreError, match="fr: the score 'good' is no number"):
        read_table(b"language,score\nde,0.5\nfr,good\n")
    with pytest.raises(StoreError, match="row 3: 'de' occurs twice"):
        read_table(b"language,score\nde,0.5\nde,0.6\n")
    with pytest.raises(StoreError, match="no rows"):
        read_table(b"language,score\n")
    with pytest.raises(StoreError, match="column language"):
        read_table(b"lang,score\nde,1\n")
    with pytest.raises(StoreError, match="UTF-8"):
        read_table(b"\xff\xfe")

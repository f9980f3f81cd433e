"""Reports: kept whole, told from what they were made of, and made into files that stand alone."""

from __future__ import annotations

import io
import json
import re

import pyarrow.csv as pc
import pytest
from pypdf import PdfReader

from moescope.app.cli.commands import run
from moescope.app.notebook import show
from moescope.app.reports import bundle, methods, pdf, render
from moescope.app.reports import report as reports
from moescope.app.reports.item import Item, origin, without_paths
from moescope.app.reports.make import item_of_view
from moescope.app.reports.report import Report, ReportError
from moescope.app.shell import take_away
from moescope.app.text import words
from moescope.store import open_trace, sample_dir

EVIL = "</script><script>alert(1)</script> *b* =1+1"


@pytest.fixture(scope="module")
def trace():
    return open_trace(sample_dir() / "trace")


@pytest.fixture(scope="module")
def report(trace):
    items = [
        item_of_view(trace, "sample", "load", {"where": {"language": ["ja"]}}),
        item_of_view(trace, "sample", "load-balance", {}),
        Item(kind="note", title=EVIL, say=EVIL, files={"profile.json": {"name": EVIL}}),
    ]
    return Report(name="study", title="A study", items=tuple(items))


def test_a_report_is_kept_and_comes_back(tmp_path, report):
    reports.save(tmp_path, report)
    again = reports.load(tmp_path, "study")
    assert [item.to_json() for item in again.items] == [item.to_json() for item in report.items]
    assert reports.names(tmp_path) == ["study"]
    assert not [path for path in reports.folder_of(tmp_path).iterdir() if path.name.startswith(".")]


def test_entries_are_ordered_captioned_and_removed(report):
    first, second, third = (item.id for item in report.items)
    moved = report.moved(first, 1)
    assert [item.id for item in moved.items] == [second, first, third]
    assert [item.id for item in moved.moved(first, -9).items] == [first, second, third]
    assert report.captioned(second, "mine").items[1].caption == "mine"
    assert [item.id for item in report.without(second).items] == [first, third]
    with pytest.raises(ReportError, match="no entry"):
        report.moved("none", 1)


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", "x" * 99, "end."])
def test_a_name_is_never_a_path(tmp_path, name):
    with pytest.raises(ReportError, match="not a valid report name"):
        reports.file_of(tmp_path, name)


DAMAGED = ["[]", "{}", '{"version": 99, "name": "x", "items": []}', '{"version": 1}', "nonsense"]


@pytest.mark.parametrize(
    "text", [*DAMAGED, '{"version": 1, "name": "x", "items": [{"kind": "evil", "title": "t"}]}']
)
def test_a_damaged_report_is_refused_in_words(tmp_path, text):
    reports.folder_of(tmp_path).mkdir()
    reports.file_of(tmp_path, "x").write_text(text)
    with pytest.raises(ReportError):
        reports.load(tmp_path, "x")


def test_the_page_stands_alone_and_holds_text_as_text(report):
    page = render.to_html(report).decode()
    assert "<script>alert" not in page
    assert not re.search(r"""(?:src|href)=["']?https?:""", page)
    assert "Japanese" in page
    scripts = re.findall(r"const charts = (.*);\n", page)
    assert list(json.loads(scripts[0])) == [f"chart-{report.items[0].id}"]


def test_an_identity_from_a_file_never_reaches_the_page(report):
    data = report.items[0].to_json() | {"id": "'><img src=x>"}
    assert re.fullmatch("[0-9a-f]{12}", Item.from_json(data).id)


def test_the_bundle_holds_the_numbers_that_the_view_gives(tmp_path, trace, report):
    out = bundle.write_bundle(report, tmp_path / "study")
    (numbers,) = (out / "data").glob("01-*.csv")
    view = trace.view("load", where={"language": ["ja"]})
    assert pc.read_csv(numbers)["count"].to_pylist() == view["count"].to_pylist()
    assert {path.suffix for path in (out / "figures").iterdir()} == {".svg", ".pdf"}
    about = json.loads((out / "about.json").read_text())
    assert about[0]["weights"] == trace.manifest.model["weights_fingerprint"][:16]
    assert not list(tmp_path.glob(".study-*"))
    with pytest.raises(ReportError, match="there already"):
        bundle.write_bundle(report, out)


def test_the_pdf_has_an_entry_a_page_as_text(report):
    pages = PdfReader(io.BytesIO(pdf.to_pdf(report))).pages
    texts = [page.extract_text() for page in pages]
    assert len(pages) == 1 + 3 + 1
    assert "Share of tokens by layer and expert" in texts[1].replace("\n", " ")
    assert "0 prompts" not in texts[3]  # a note is of no recording
    assert "Methods" in texts[4]


def test_no_path_of_this_machine_leaves_it(trace):
    about = origin(trace, "sample") | {}
    assert "/" not in about["model"].removeprefix("sample_data/")
    assert without_paths("t = open_trace('/home/me/x')", "x") == "t = open_trace('x')"
    both = without_paths(
        "a, b = open_trace('/home/me/x'), open_trace('/home/me/y')", "x", {"/home/me/y": "other"}
    )
    assert both == "a, b = open_trace('x'), open_trace('other')"


def test_methods_tell_recording_measure_and_source(trace):
    text = methods.paragraph(origin(trace, "sample", "Japanese"), "alignment-matrix")
    assert "1,100 prompts" in text
    assert "Jensen–Shannon" in text
    assert text.endswith(f"To cite: {methods.CITATIONS['alignment']}.")
    paragraphs = render.methods_of(Report(name="x", items=tuple(item_of_view(trace, "sample", view, {})
                                                                for view in ("load", "load-balance"))))  # fmt: skip
    assert [text.count("Shown: all prompts, all tokens.") for text in paragraphs] == [1]
    assert methods.citations(["alignment", "alignment-matrix", "load"]) == [methods.CITATIONS["alignment"]]


def test_an_import_is_not_told_as_a_recording_of_ours():
    about = {
        "model": "unnamed model",
        "imported": "neutral",
        "prompt set": "x.parquet",
        "prompts": 1,
        "tokens": 2,
    }
    text = methods.paragraph(about | {"versions": {"moescope": "1", "torch": "2"}})
    assert "imported from x.parquet" in text
    assert "torch" not in text


def test_both_sides_of_a_comparison_are_named(trace):
    about = origin(trace, "one", "all prompts") | {"second": origin(trace, "other")}
    assert [side in render.about_line(about) for side in ("A: one, ", "B: other, ")] == [True, True]
    assert "B is other: Routing of" in methods.paragraph(about, "agreement")


def test_the_tokens_of_a_caption_are_those_of_the_call():
    view, params = take_away.called("t = trace.view('load', stream='decoder', phase='decode', special=False)")
    assert (view, words.tokens(params)) == ("load", "generated tokens, without special tokens")
    assert take_away.called("x = view(pairs, 'agreement', resamples=10)")[0] == "agreement"
    assert words.tokens({}) == "all tokens"


def test_the_commands_write_files(tmp_path, capsys):
    sample = str(sample_dir() / "trace")
    assert run(["report", sample, "--view", "load?layer=3", "--out", str(tmp_path / "r.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 1
    assert run(["bundle", sample, "--view", "load", "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / "index.html").is_file()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["report", "--out", "r.html"], 2, "name a trace"),
        (["report", "SAMPLE", "--out", "r.doc"], 2, ".html or .pdf"),
        (["report", "SAMPLE", "--view", "loud", "--out", "r.html"], 2, "no view 'loud'"),
        (["report", "SAMPLE", "--view", "load?layer=99", "--out", "r.html"], 1, "layer"),
        (["bundle", "nowhere", "--out", "b"], 1, "nowhere"),
    ],
)
def test_bad_input_writes_nothing(tmp_path, capsys, monkeypatch, words, code, said):
    monkeypatch.chdir(tmp_path)
    assert run([word.replace("SAMPLE", str(sample_dir() / "trace")) for word in words]) == code
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_notebook_draws_the_same_figure(trace, report):
    chart = show(trace, "load", where={"language": ["ja"]})
    drawn, kept = chart.to_dict(), report.items[0].spec
    assert drawn["layer"] == kept["layer"]
    with pytest.raises(ValueError, match="no figure"):
        show(trace, "co-activation", layer=3)

"""A recording of others comes in through the Library: every format, what was checked, and what is refused."""

from __future__ import annotations

from pathlib import Path

from page_test import text_of
from streamlit.testing.v1 import AppTest

from moescope.app.screens.library import import_form
from moescope.store import open_trace
from moescope.store.importers import FORMATS, parameters


def script(library: str) -> None:
    from pathlib import Path

    from moescope.app.screens.library import import_form

    import_form.draw(Path(library))


def opened(library: Path) -> AppTest:
    app = AppTest.from_function(script, kwargs={"library": str(library)}, default_timeout=60).run()
    assert not app.exception
    return app


def test_every_format_is_offered_with_its_options(tmp_path, monkeypatch):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(tmp_path))
    app = opened(tmp_path)
    assert len(app.selectbox(key="import-format").options) == len(FORMATS)
    for form in FORMATS:
        app.selectbox(key="import-format").set_value(form).run()
        assert not app.exception
        fields = {field.key for kind in (app.number_input, app.text_input) for field in kind}
        assert {f"import-{form}-{name}" for name in parameters(form)} <= fields


def test_a_recording_becomes_a_trace_and_a_damaged_one_says_why(tmp_path, monkeypatch):
    library = tmp_path / "library"
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(library))
    good = tmp_path / "routing.csv"
    lines = [
        f's{s},{t},{layer},"[{(s + t) % 4}, {(s + t + 1) % 4}]"'
        for s in range(2)
        for t in range(3)
        for layer in (0, 1)
    ]
    good.write_text("\n".join(["sequence,step,layer,expert", *lines]) + "\n")
    app = opened(library)
    app.text_input(key="import-path").set_value(str(good)).run()
    assert app.text_input(key="import-name routing").value == "routing"
    app.number_input(key="import-neutral-experts").set_value(4)
    app.button(key="import-start").click().run(timeout=60)
    assert not app.exception
    text = text_of(app)
    assert "routing is imported: 2 sequences, 6 tokens" in text, text
    trace = open_trace(library / "routing")
    assert (trace.num_prompts, trace.num_tokens, [r.num_experts for r in trace.routers]) == (2, 6, [4, 4])
    bad = tmp_path / "twice.csv"
    bad.write_text('sequence,step,layer,expert\ns0,0,0,"[1, 1]"\n')
    found = import_form.run("neutral", bad, library / "twice", {})
    assert found.made is None
    assert "twice.csv" in found.problem
    assert str(tmp_path) not in found.problem
    assert not (library / "twice").exists()
    assert "is there already" in import_form.run("neutral", good, library / "routing", {}).problem

"""Templates with slots in the app: the same prompts as from the command line."""

import pytest

from moescope.app.screens.library.prompt_template import as_csv, as_toml, slots_of, values_of
from moescope.tracer.prompts.expand import expand_file, expand_template
from moescope.tracer.prompts.prompt import PromptSetError
from moescope.tracer.prompts.prompt_set import PromptSet

SPEC = {
    "template": "What happened {time}{place}?",
    "slots": {"time": values_of("yesterday\nin 1989"), "place": values_of('\n in Beijing\n in "Paris" \\')},
    "contrast": "place",
    "columns": {"language": "en"},
}


def test_slots_are_named_in_their_order():
    assert slots_of("What happened {time}{place}, {time}?") == ["time", "place"]
    assert slots_of("no slot, {{brace}}") == []
    for wrong in ("{", "{}", "{0}", "{a.b}"):
        with pytest.raises(PromptSetError):
            slots_of(wrong)


def test_an_empty_line_is_an_empty_value():
    assert values_of("\n in Beijing") == [{"text": "", "tag": "none"}, " in Beijing"]
    assert values_of("a\nb\n") == ["a", "b"]


def test_every_combination_stands_in_the_csv(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes(as_csv(expand_template(SPEC)))
    prompts = PromptSet.from_file(path)
    assert [prompt.text for prompt in prompts][:3] == [
        "What happened yesterday?", "What happened yesterday in Beijing?", 'What happened yesterday in "Paris" \\?',
    ]  # fmt: skip
    assert len(prompts) == 6
    assert {prompt.group for prompt in prompts} == {"none", "in Beijing", 'in "Paris" \\'}
    assert [prompt.parallel_id for prompt in prompts] == ["yesterday"] * 3 + ["in 1989"] * 3


def test_the_toml_makes_the_same_prompts(tmp_path):
    path = tmp_path / "t.toml"
    path.write_text(as_toml(SPEC), encoding="utf-8")
    assert [vars(p) if hasattr(p, "__dict__") else p for p in expand_file(path)] == [
        vars(p) if hasattr(p, "__dict__") else p for p in expand_template(SPEC)
    ]


def test_the_form_traces_a_template(hand_library, monkeypatch, tmp_path):
    import shutil

    from streamlit.testing.v1 import AppTest

    import moescope.app

    library = tmp_path / "library"
    shutil.copytree(hand_library / "hand", library / "hand")
    started = []
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(library))
    monkeypatch.setattr("sys.argv", ["main.py"])
    monkeypatch.setattr(
        "moescope.app.screens.library.new_trace.start_trace",
        lambda model, prompts, out, **options: started.append(prompts),
    )
    app = AppTest.from_file(str(moescope.app.__path__[0]) + "/main.py", default_timeout=60)
    app.session_state["new-source"] = "a template with slots"
    app.run()
    app.text_input(key="template").set_value("Say {what}.").run()
    app.text_area(key="slot what").set_value("yes\nno\nmaybe").run()
    app.text_input(key="new-model").set_value("some-model").run()
    app.button(key="new-start").click().run()
    assert not app.exception
    assert [prompt.text for prompt in PromptSet.from_file(started[0])] == [
        "Say yes.",
        "Say no.",
        "Say maybe.",
    ]

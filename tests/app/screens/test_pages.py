"""Every page in every state, run without a browser: what stands on it, and that no traceback ever does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import moescope.app
from moescope.app.screens.library.page import WHERE_NARROW
from moescope.app.screens.library.tour_stops import STOPS
from moescope.app.shell import theme_watch
from moescope.app.shell.shell import PAGES
from moescope.app.shell.way import WAY
from moescope.store import list_traces
from moescope.store.importers import run

MAIN = Path(moescope.app.__file__).parent / "main.py"
RUN_SECONDS = 60


@pytest.fixture(autouse=True)
def _fresh_caches():
    st.cache_data.clear()
    st.cache_resource.clear()


def start(library: Path, monkeypatch: pytest.MonkeyPatch, page: str = "library", **params: str) -> AppTest:
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(library))
    monkeypatch.setattr("sys.argv", ["main.py"])
    app = AppTest.from_file(str(MAIN), default_timeout=RUN_SECONDS)
    app.session_state["travel"] = (page, params)
    return app.run()


def shown(app: AppTest) -> str:
    """All text on the page."""
    html = [element.proto.body for element in app.get("html")]
    code = [element.value for element in app.code]
    return "\n".join([*html, *code, *(m.value for m in app.markdown), *(t.value for t in app.title)])


def well(app: AppTest) -> str:
    """The page's text, after making sure that nothing failed."""
    assert not app.exception, app.exception
    text = shown(app)
    assert "could not be drawn" not in text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("page", [screen.name for screen in PAGES])
def test_every_page_stands_on_a_trace(page: str, hand_library, monkeypatch):
    app = start(hand_library, monkeypatch, page, trace="hand")
    well(app)
    assert app.title[0].value == next(screen.title for screen in PAGES if screen.name == page)


@pytest.fixture(scope="module")
def counts_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with one trace that holds counts only."""
    folder = tmp_path_factory.mktemp("counts")
    rows = [
        {"sequence": f"{language}{n}", "layer": layer, "expert": e, "count": 3 + (e + n) % 2, "tokens": 14 // 2,
         "language": language, "group": language, "parallel_id": str(n)}
        for language in ("en", "de") for n in range(3) for layer in (0, 1) for e in range(4)
    ]  # fmt: skip
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run("counts", folder / "c.jsonl", folder / "library" / "counts")
    return folder / "library"


@pytest.mark.parametrize("page", [screen.name for screen in PAGES])
def test_every_page_stands_on_counts_without_events(page: str, counts_library: Path, monkeypatch):
    app = start(counts_library, monkeypatch, page, trace="counts")
    if page == "alignment":
        assert "the trace holds no router probabilities, which alignment needs" in shown(app)
        return
    well(app)


@pytest.mark.parametrize("page", [screen.name for screen in PAGES])
def test_every_page_says_what_would_be_here_when_there_is_nothing(page: str, tmp_path, monkeypatch):
    monkeypatch.setattr("moescope.store.library.sample_dir", lambda: tmp_path / "no sample")
    text = well(start(tmp_path / "empty", monkeypatch, page))
    assert any(words in text for words in ("No traces yet", "no trace to show", "Nothing in"))


def test_the_heatmap_tells_the_largest_share_against_chance(hand_library, monkeypatch):
    text = well(start(hand_library, monkeypatch, "heatmap", trace="hand"))
    assert "of all tokens to expert" in text
    assert "even routing would give 25\u202f%" in text


def test_a_link_to_a_trace_that_is_not_here_says_so(hand_library, monkeypatch):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(hand_library))
    monkeypatch.setattr("sys.argv", ["main.py"])
    app = AppTest.from_file(str(MAIN), default_timeout=RUN_SECONDS)
    app.query_params["trace"] = "<b>gone</b>"
    text = well(app.run())
    assert "“&lt;b&gt;gone&lt;/b&gt;”, which is not here" in text
    assert "Layer" not in text
    assert "which is not here" not in well(start(hand_library, monkeypatch, "heatmap", trace="hand"))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"language": ["ja", "xx"]}, "language “xx”"),
        ({"group": "nope"}, "group “nope”"),
        ({"tag.seen": "maybe"}, "seen “maybe”"),
        ({"tag.nope": "<b>1</b>"}, "nope “&lt;b&gt;1&lt;/b&gt;”"),
        ({"layers": ["1", "50"]}, "layer “50”"),
        ({"tokens": "few"}, "tokens “few”"),
        ({"vs": "gone"}, "the trace “gone”"),
    ],
)
def test_what_a_link_filters_by_and_the_trace_does_not_have_is_said(asked, says, hand_library, monkeypatch):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(hand_library))
    monkeypatch.setattr("sys.argv", ["main.py"])
    app = AppTest.from_file(str(MAIN), default_timeout=RUN_SECONDS)
    for name, value in ({"trace": "hand"} | asked).items():
        app.query_params[name] = value
    where = "is not in this library" if "vs" in asked else "this trace does not have"
    sentence = f"The link names {says}, which {where}."
    assert sentence in well(app.run())
    assert sentence in well(app.run())
    app.selectbox(key="trace").set_value("hand-steered").run()
    assert sentence not in well(app)


@pytest.mark.parametrize(
    ("page", "asked", "says"),
    [
        ("tokens", {"prompt": "nobody"}, "the prompt “nobody”"),
        ("tokens", {"layer": "99"}, "layer “99”"),
        ("alignment", {"pivot": "Klingon (tlh)"}, "the pivot “Klingon (tlh)”"),
        ("resonance", {"contrast": "language", "target": "Klingon (tlh)"}, "language “Klingon (tlh)”"),
        ("heatmap", {"show": "side by side", "by": "colour"}, "the column “colour”"),
    ],
)
def test_what_a_link_names_on_a_page_in_vain_is_said(page, asked, says, hand_library, monkeypatch):
    text = well(start(hand_library, monkeypatch, page, trace="hand", **asked))
    assert f"The link names {says}, which this trace does not have." in text


def test_a_filter_of_the_bar_reaches_the_picture(hand_library, monkeypatch):
    app = start(hand_library, monkeypatch, "heatmap", trace="hand")
    app.multiselect(key="language").set_value(["ja"]).run()
    assert "of Japanese tokens to expert" in well(app)
    app.selectbox(key="tokens").set_value("generated").run()
    assert "No token of the prompts with language ja has phase decode" in well(app)


@pytest.mark.parametrize("page", [screen.name for screen in PAGES])
def test_every_page_stands_where_the_filter_lets_nothing_through(page: str, hand_library, monkeypatch):
    app = start(hand_library, monkeypatch, page, trace="hand")
    app.selectbox(key="tokens").set_value("generated").run()
    assert not app.exception
    assert "could not be drawn" not in shown(app)
    app.selectbox(key="tokens").set_value("all")
    app.multiselect(key="language").set_value(["ja"])
    app.multiselect(key="group").set_value(["<i>evil</i>"]).run()
    assert not app.exception
    assert "our fault" not in shown(app)
    assert "fault in moescope" not in shown(app)


def test_damage_that_a_page_finds_while_it_is_drawn_is_told_on_that_page(hand_library, tmp_path, monkeypatch):
    import shutil

    import pyarrow.parquet as pq

    library = tmp_path / "library"
    shutil.copytree(hand_library / "hand", library / "flipped")
    (part,) = (library / "flipped" / "events").glob("*.parquet")
    weights = pq.read_metadata(part).row_group(0).column(5)
    data = bytearray(part.read_bytes())
    data[weights.data_page_offset + weights.total_compressed_size // 2] ^= 1
    part.write_bytes(data)
    text = well(start(library, monkeypatch, "tokens", trace="flipped"))
    assert "Damaged trace." in text
    assert "All of its parts are damaged" in text


def test_a_cell_in_the_url_opens_the_expert(hand_library, monkeypatch):
    app = start(hand_library, monkeypatch, "heatmap", trace="hand")
    app.query_params["cell"] = "decoder.2.5"
    app.run()
    text = well(app)
    assert "Layer 2, expert 5 takes" in text
    assert '<p class="ms-context"' in text
    app.button(key="close-drawer").click().run()
    assert "Layer 2, expert 5 takes" not in well(app)


def test_a_cell_that_is_not_there_is_said_so(hand_library, monkeypatch):
    app = start(hand_library, monkeypatch, "heatmap", trace="hand")
    app.query_params["cell"] = "decoder.2.500"
    app.run()
    assert "No such expert" in well(app)


def test_a_difference_names_both_sides(hand_library, monkeypatch):
    app = start(hand_library, monkeypatch, "heatmap", trace="hand")
    app.query_params.clear()
    app.session_state["show"] = "difference"
    app.run()
    assert "Share of tokens, Arabic minus all other languages." in well(app)


def test_two_traces_are_compared(hand_library, monkeypatch):
    app = start(hand_library, monkeypatch, "heatmap", trace="hand")
    app.selectbox(key="vs").set_value("hand-steered").run()
    app.session_state["show"] = "difference"
    app.run()
    assert "Share of tokens, hand minus hand-steered." in well(app)


def test_side_by_side_by_a_tag(hand_library, monkeypatch):
    app = start(hand_library, monkeypatch, "heatmap", trace="hand")
    app.session_state["show"] = "side by side"
    app.run()
    assert "They differ most at layer" in well(app)


def test_a_steered_trace_has_its_banner_everywhere(hand_library, monkeypatch):
    text = well(start(hand_library, monkeypatch, "tokens", trace="hand-steered"))
    assert "Steered trace. Profile “no &lt;i&gt;expert&lt;/i&gt; 3”" in text


def test_an_unfinished_trace_is_marked(hand_library, monkeypatch):
    assert "Unfinished trace: it holds" in well(
        start(hand_library, monkeypatch, "heatmap", trace="hand-unfinished")
    )


def test_prompt_text_reaches_the_page_only_escaped(hand_library, monkeypatch):
    app = start(hand_library, monkeypatch, "heatmap", trace="hand")
    for expert in range(8):
        app.query_params["cell"] = f"decoder.0.{expert}"
        app.run()
        text = well(app)
        assert "<script" not in text
        assert "<img" not in text
        assert "<i>evil" not in text


def test_a_damaged_part_leaves_the_rest_readable(hand_library, tmp_path, monkeypatch):
    import shutil

    library = tmp_path / "library"
    shutil.copytree(hand_library / "hand", library / "damaged")
    for part in (library / "damaged" / "rollups").glob("*.parquet"):
        part.unlink()
    text = well(start(library, monkeypatch, "heatmap", trace="damaged"))
    assert "Damaged trace." in text


def test_a_broken_trace_is_listed_and_does_no_harm(hand_library, monkeypatch):
    app = start(hand_library, monkeypatch)
    well(app)
    table = app.dataframe[0].value
    assert table.set_index("trace").loc["broken", "state"] == "cannot be opened"


def test_the_query_page_answers_and_refuses(hand_library, monkeypatch):
    app = start(hand_library, monkeypatch, "data", trace="hand")
    well(app)
    app.text_area(key="sql").set_value("SELECT count(*) AS n FROM prompts")
    next(button for button in app.button if button.label == "Run").click().run()
    well(app)
    assert app.dataframe[0].value["n"].tolist() == [11]
    app.text_area(key="sql").set_value("SELECT * FROM read_csv('/etc/passwd')")
    next(button for button in app.button if button.label == "Run").click().run()
    assert not app.exception
    assert "The query failed" in shown(app)


def test_an_unexpected_failure_is_a_card_with_the_log_behind_a_fold(hand_library, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("<b>boom</b>")

    monkeypatch.setattr("moescope.app.screens.heatmap.routing_map", broken)
    app = start(hand_library, monkeypatch, "heatmap", trace="hand")
    assert not app.exception
    text = "\n".join(element.proto.body for element in app.get("html"))
    assert "Heatmap could not be drawn" in text
    assert "RuntimeError: &lt;b&gt;boom&lt;/b&gt;" in text
    assert "Traceback" not in text
    assert [fold.label for fold in app.expander] == ["Log"]


def test_a_choice_that_replaces_another_is_no_error_of_the_link(hand_library, monkeypatch):
    app = start(
        hand_library, monkeypatch, "resonance", trace="hand", contrast="language", target="German (de)"
    )
    assert "A: German" in well(app)
    app.selectbox(key="contrast").set_value("seen").run()
    assert "The link names" not in well(app)
    app.run()
    assert "The link names" not in well(app)


def test_a_link_may_name_a_language_by_its_code(hand_library, monkeypatch):
    app = start(
        hand_library, monkeypatch, "resonance", trace="hand", contrast="language", target="ja", rest="ar"
    )
    assert "A: Japanese" in well(app)
    assert "B: Arabic" in well(app)
    app.selectbox(key="target").set_value("de").run()
    assert "A: German" in well(app)
    app = start(hand_library, monkeypatch, "alignment", trace="hand", pivot="ja")
    assert "Routing is nearest to Japanese" in well(app)


def test_a_narrow_library_shows_what_there_is_room_for(hand_library, monkeypatch):
    app = start(hand_library, monkeypatch, trace="hand")
    assert not list(app.dataframe[0].proto.column_order)
    monkeypatch.setattr(theme_watch, "narrow", lambda: True)
    app.run()
    assert list(app.dataframe[0].proto.column_order) == list(WHERE_NARROW)
    assert "updated" in app.dataframe[0].value.columns


def test_the_sentence_under_maps_side_by_side_is_about_those_that_are_shown(hand_library, monkeypatch):
    monkeypatch.setattr("moescope.app.screens.heatmap.MOST_CELLS", 64)
    app = start(hand_library, monkeypatch, "heatmap", trace="hand", show="side by side")
    text = well(app)
    assert "2 more would be too much for one picture: English and Japanese." in text
    said = next(line for line in text.splitlines() if "They differ most" in line)
    assert "Arabic" in said
    assert "German" in said


def test_traces_of_different_routers_are_not_subtracted_without_a_word(hand_library, monkeypatch):
    warning = "The two traces have different routers"
    app = start(hand_library, monkeypatch, "heatmap", trace="hand", vs="hand-steered", show="difference")
    assert warning not in well(app)
    app = start(hand_library, monkeypatch, "heatmap", trace="hand", vs="sample", show="difference")
    assert warning in well(app)


def test_a_link_to_another_recording_of_that_name_stops(hand_library, monkeypatch):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(hand_library))
    monkeypatch.setattr("sys.argv", ["main.py"])
    app = AppTest.from_file(str(MAIN), default_timeout=RUN_SECONDS)
    app.query_params["trace"], app.query_params["fp"] = "hand", "0badc0de"
    text = well(app.run())
    assert "fingerprint 0badc0de" in text
    assert "another recording" in text
    assert not app.title


def test_a_link_with_the_right_fingerprint_opens(hand_library, monkeypatch):
    (summary,) = [found for found in list_traces(hand_library) if found.name == "hand"]
    assert "which is not here" not in well(
        start(hand_library, monkeypatch, "heatmap", trace="hand", fp=summary.fingerprint)
    )


@pytest.mark.parametrize("layers", [(0, 90), (50, 90)])
def test_layers_chosen_in_a_deeper_trace_do_not_break_a_shallower_one(hand_library, monkeypatch, layers):
    app = AppTest.from_file(str(MAIN), default_timeout=RUN_SECONDS)
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(hand_library))
    monkeypatch.setattr("sys.argv", ["main.py"])
    app.session_state["travel"] = ("heatmap", {"trace": "hand", "layers": layers})
    assert "Layers 50" not in well(app.run())


def test_a_measure_that_the_trace_lacks_is_not_offered_and_says_why(tmp_path, monkeypatch):
    events = tmp_path / "events.csv"
    events.write_text("sequence,step,layer,expert\na,0,0,1\na,1,0,2\nb,0,0,1\n")
    run("neutral", events, tmp_path / "library" / "bare", experts=4)
    app = start(tmp_path / "library", monkeypatch, "heatmap", trace="bare", measure="weight")
    assert "bare holds no gate weights" in well(app)


def test_an_unfinished_trace_says_which_prompts_it_holds(hand_library, monkeypatch, tmp_path):
    library = tmp_path / "library"
    shutil.copytree(hand_library, library)
    manifest = library / "hand" / "trace.json"
    data = json.loads(manifest.read_text())
    data["state"] = "partial"
    data.pop("checksum", None)
    manifest.write_text(json.dumps(data))
    assert "not a fair sample" in well(start(library, monkeypatch, "heatmap", trace="hand"))


def test_a_link_to_a_cell_opens_its_expert(hand_library, monkeypatch):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(hand_library))
    monkeypatch.setattr("sys.argv", ["main.py"])
    app = AppTest.from_file(str(MAIN), default_timeout=RUN_SECONDS)
    app.session_state["travel"] = ("heatmap", {"trace": "hand"})
    app.query_params["cell"] = "decoder.2.5"
    app.run()
    app.query_params["cell"] = "decoder.2.5"
    assert "Layer 2, expert 5" in " ".join([well(app.run()), *(head.value for head in app.subheader)])


def test_every_page_asks_and_leads_on_to_a_page():
    names = {screen.name for screen in PAGES}
    assert set(WAY) == names, "each page needs its question and next page in WAY of app/shell/way.py"
    assert {step.then for step in WAY.values()} <= names
    assert {stop.page for stop in STOPS} <= names
    assert len(STOPS) == 6


def test_an_empty_library_opens_with_the_sample_and_a_tour_that_can_be_stopped(tmp_path, monkeypatch):
    app = start(tmp_path, monkeypatch)
    assert "takes 64.6\u202f% of Hindi tokens" in well(
        app
    )  # of the bundled trace; even routing would give 12.5 %
    app.button(key="door-tour").click().run()
    assert app.title[0].value == "Heatmap"
    assert "Tour, stop 1 of 6." in well(app)
    app.button(key="tour-next").click().run()
    assert app.title[0].value == "Tokens"
    app.button(key="tour-end").click().run()
    assert app.title[0].value == "Tokens"
    assert "Tour, stop" not in well(app)
    app.button(key="next-tokens").click().run()
    assert app.title[0].value == "Structure"


def test_a_library_with_traces_of_its_own_opens_with_them(hand_library, monkeypatch):
    app = start(hand_library, monkeypatch)
    assert not [button for button in app.button if button.key == "door-tour"]


def test_a_linked_prompt_far_down_stays_chosen_when_the_page_runs_again(hand_library, monkeypatch):
    monkeypatch.setattr("moescope.app.screens.tokens.MOST_LISTED", 2)
    app = start(hand_library, monkeypatch, "tokens", trace="hand", prompt="ar-1")
    assert app.selectbox(key="prompt choice").value == "ar-1"
    app.run()
    assert app.selectbox(key="prompt choice").value == "ar-1"
    well(app)

"""The app in a real browser: what only JavaScript, a mouse and a download can show.

One server and one browser for the whole file. Skipped where Chromium is not installed.
"""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from real_browser import at_rest, needs_chromium, once_more_if_late

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
SECONDS = 120_000
CHART = ".stVegaLiteChart svg.marks, .stVegaLiteChart canvas"

pytestmark = [needs_chromium, once_more_if_late, pytest.mark.timeout(600)]


def say(page, text: str) -> None:
    page.get_by_text(text).first.wait_for()


def cell(page, layer: int, expert: int):
    """The mark of a cell of the routing map."""
    return page.locator(
        f'.stVegaLiteChart path[aria-label*="layer: {layer};"][aria-label*="expert: {expert};"]'
    ).first


def test_a_click_on_a_cell_opens_the_expert_and_the_url_keeps_it(page):
    page.goto("/heatmap?trace=hand")
    page.locator(CHART).first.wait_for()
    cell(page, 2, 5).click()
    say(page, "Layer 2, expert 5 takes")
    assert "cell=decoder.2.5" in page.url
    copied = page.url
    page.goto("about:blank")
    page.goto(copied)
    say(page, "Layer 2, expert 5 takes")
    page.get_by_role("button", name="Close").click()
    page.get_by_text("Layer 2, expert 5 takes").wait_for(state="detached")
    assert "cell=" not in page.url


def test_a_control_changes_the_picture_and_the_bar_stays_when_pages_change(page):
    page.goto("/heatmap?trace=hand&language=ja")
    say(page, "of Japanese tokens to expert")
    page.get_by_role("radio", name="mean gate weight").click()
    say(page, "The largest mean gate weight over Japanese tokens is")
    assert "measure=" in page.url
    page.get_by_role("link", name="Tokens").click()
    say(page, "Prompt (2)")
    assert "language=ja" in page.url
    assert "trace=hand" in page.url
    assert "measure=" not in page.url


def test_text_of_prompts_is_literal_in_the_token_view(page):
    page.goto("/tokens?trace=hand&prompt=evil-0")
    tokens = page.locator(".ms-token")
    tokens.nth(1).wait_for()
    assert tokens.nth(1).inner_text() == "<script>window.hacked=1</script>"
    page.locator(CHART).first.wait_for()


def test_the_slider_walks_through_the_layers_and_a_token_opens_its_expert(page):
    page.goto("/tokens?trace=hand&prompt=en-0&beneath=ar")
    token = page.locator(".ms-token").nth(3)
    token.wait_for()
    before = token.evaluate("e => e.style.getPropertyValue('--stripe') + e.dataset.first")
    slider = page.get_by_label("layer", exact=True)
    slider.focus()
    slider.press("ArrowRight")
    assert page.locator(".ms-layer-name").inner_text() == "Layer 1"
    page.wait_for_url(re.compile(r"layer=1"))
    after = token.evaluate("e => e.style.getPropertyValue('--stripe') + e.dataset.first")
    assert before != after
    assert page.locator('.ms-text[dir="rtl"]').count() == 1
    token.hover()
    assert "expert" in page.locator(".ms-card-tip").inner_text()
    token.click()
    expert = token.get_attribute("data-first")
    say(page, f"Layer 1, expert {expert}")


def test_a_chart_downloads_as_valid_files(page, tmp_path: Path):
    page.goto("/heatmap?trace=hand")
    page.locator(CHART).first.wait_for()
    for kind in ("PNG", "SVG", "HTML", "CSV", "Parquet"):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=kind, exact=True).first.click()
        target = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(target)
        assert target.suffix == f".{kind.lower()}"
        check_file(target, page)


def check_file(path: Path, page) -> None:
    data = path.read_bytes()
    if path.suffix == ".png":
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(data) > 5_000
    elif path.suffix == ".svg":
        assert ElementTree.fromstring(data).tag.endswith("svg")
    elif path.suffix == ".html":
        alone = page.context.new_page()
        alone.goto(path.as_uri())
        alone.locator("svg.marks").wait_for()
        alone.close()
    elif path.suffix == ".csv":
        assert data.decode("utf-8-sig").splitlines()[0].startswith('"layer","stream","expert"')
        assert len(data.splitlines()) == 1 + 4 * 8
    else:
        assert data[:4] == data[-4:] == b"PAR1"


def test_figures_follow_the_theme_also_when_it_changes(page):
    def background() -> str:
        return page.locator(".stVegaLiteChart svg.marks").first.evaluate(
            "e => getComputedStyle(e).backgroundColor"
        )

    page.emulate_media(color_scheme="dark")
    page.goto("/heatmap?trace=hand")
    page.locator(CHART).first.wait_for()
    assert background() == "rgb(20, 24, 28)"
    page.emulate_media(color_scheme="light")
    until = time.monotonic() + SECONDS / 1000
    while background() != "rgb(252, 252, 250)" and time.monotonic() < until:
        page.wait_for_timeout(200)
    assert background() == "rgb(252, 252, 250)"


def test_a_wrong_prompt_set_is_refused_by_row_and_column(
    page, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("id,text\na,one\na,two\n")
    page.goto("/?trace=hand")
    page.locator(".st-key-new-upload input[type=file]").set_input_files(wrong)
    say(page, "This prompt set can't be used")
    said = page.locator(".ms-card.ms-error").inner_text()
    assert "row 2" in said
    assert "id" in said
    page.locator("button:disabled", has_text="Start tracing").wait_for()  # drawn after the card
    assert not list(tmp_path_factory.getbasetemp().rglob(".uploads/wrong.csv")), "it must not be kept"


def test_a_model_that_cannot_be_loaded_says_so_with_the_log_behind_a_fold(page, tmp_path: Path):
    prompts = tmp_path / "hopeless.csv"
    prompts.write_text("text\nhello\n")
    page.goto("/?trace=hand")
    page.get_by_role("textbox", name="Model").fill(str(tmp_path / "no-model"))
    page.get_by_role("textbox", name="Model").press("Enter")
    page.locator(".st-key-new-upload input[type=file]").set_input_files(prompts)
    # Until the upload is read, the button would start the prompt set that is offered.
    say(page, "1 prompt. The first")
    page.get_by_role("button", name="Start tracing").click()
    say(page, "hopeless: tracing failed")
    assert page.get_by_text("Traceback").filter(visible=True).count() == 0
    page.locator(".st-key-dismiss-hopeless button").click()
    page.get_by_text("hopeless: tracing failed").first.wait_for(state="detached")


def drag(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=8)
    page.mouse.up()


def test_a_drag_over_the_lines_chooses_the_layers(page):
    page.goto("/alignment?trace=hand")
    chart = page.locator(CHART).first
    chart.wait_for()
    say(page, "Layers 0 to 3: most alike")
    at_rest(chart)
    point = {
        layer: page.locator(f'.stVegaLiteChart path[aria-label*="layer: {layer};"]').first.bounding_box()
        for layer in (1, 2)
    }
    box = chart.bounding_box()
    drag(page, (point[1]["x"] - 6, box["y"] + 120), (point[2]["x"] + 14, box["y"] + 150))
    say(page, "Layers 1 to 2: most alike")
    assert "aligned=1&aligned=2" in page.url


def test_a_box_over_the_scan_goes_to_steer(page):
    page.goto("/resonance?trace=hand&contrast=language&mouse=drag+selects+experts")
    cell(page, 1, 2).wait_for()
    cell(page, 1, 2).scroll_into_view_if_needed()
    at_rest(cell(page, 1, 2))
    corners = [cell(page, 1, 2).bounding_box(), cell(page, 2, 4).bounding_box()]
    centres = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in corners]
    drag(page, *centres)
    say(page, "The selected experts: layer 1: 2, 3, 4; layer 2: 2, 3, 4.")
    page.get_by_role("button", name="Send 6 experts to Steer").click()
    page.wait_for_url(re.compile(r"/steer\?.*profile="))


def test_a_box_over_the_map_of_experts_goes_to_steer(page):
    page.goto("/structure?trace=hand&question=Map+of+experts")
    say(page, "The most selective one")
    plot = page.locator(".stPlotlyChart .nsewdrag").first
    plot.wait_for()
    plot.hover()
    page.locator('.stPlotlyChart .modebar-btn[data-val="select"]').click()
    at_rest(plot)
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + 4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 4, box["y"] + box["height"] - 4, steps=8)
    page.mouse.up()
    say(page, "32 experts selected")
    page.get_by_role("button", name="Send 32 experts to Steer").click()
    page.wait_for_url(re.compile(r"/steer.*profile="))


def test_the_flows_between_layers_are_drawn(page):
    page.goto("/structure?trace=hand&question=Paths")
    page.locator(".stPlotlyChart .sankey-link").first.wait_for()
    say(page, "The strongest flow goes from layer")
    assert page.locator(".stPlotlyChart .sankey-node").count() > 8


def test_the_library_has_an_address(page):
    page.goto("/library?trace=hand")
    page.get_by_role("heading", name="Library").wait_for()
    page.locator(".st-key-topbar").wait_for()
    assert page.get_by_text("Page not found").count() == 0
    assert "trace=hand" in page.url


def test_a_link_that_names_what_is_not_there_says_so(page):
    page.goto("/heatmap?trace=hand&language=ja&language=xx&layers=1&layers=50")
    say(page, "The link names language “xx” and layer “50”, which this trace does not have.")
    say(page, "of Japanese tokens to expert")


def test_what_is_chosen_anew_leaves_nothing_false_in_the_address(page):
    page.goto("/heatmap?trace=hand&show=difference&a=de&b=ja")
    say(page, "German minus Japanese")
    page.wait_for_url(re.compile(r"a=German\+%28de%29&b=Japanese\+%28ja%29"))
    page.get_by_role("combobox", name="Difference of").click()
    page.get_by_role("option", name="seen").click()
    say(page, "minus all other seens")
    page.wait_for_url(re.compile(r"[?&]of=seen"))
    assert page.get_by_text("The link names").count() == 0


def test_in_a_narrow_window_columns_stand_beneath_one_another(page):
    page.set_viewport_size({"width": 800, "height": 1000})
    page.goto("/data?trace=hand")
    editor = page.locator(".st-key-beside-query textarea").first
    editor.wait_for()
    schema = page.get_by_test_id("stExpander").first
    schema.wait_for()
    above, below = editor.bounding_box(), schema.bounding_box()
    assert below["y"] > above["y"] + above["height"]
    assert abs(below["width"] - above["width"]) < 40
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 800


def test_in_a_narrow_window_the_library_needs_no_scrolling_sideways(page):
    page.set_viewport_size({"width": 800, "height": 1000})
    page.goto("/library?trace=hand")
    say(page, "choose a row to see more of it")
    page.wait_for_function(
        """() => { const table = document.querySelector('.stDataFrame .dvn-scroller');
                   return table && table.scrollWidth <= table.clientWidth; }"""
    )

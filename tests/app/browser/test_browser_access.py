"""The app for everyone: no serious barrier that axe-core finds on any page, and figures by keyboard."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_browser import needs_chromium, once_more_if_late, running_app

from moescope.app.figures.theme import DARK, LIGHT, Theme
from moescope.app.shell.shell import PAGES
from moescope.store.write.synthetic import Synthetic, write_synthetic

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
SERIOUS = ("serious", "critical")
ADDRESSES = {screen.name: f"/{screen.name}?trace=hand" for screen in PAGES} | {
    "library": "/?trace=hand",
    "drawer": "/heatmap?trace=hand&cell=decoder.1.2",
    "translation": "/tokens?trace=hand&prompt=en-0&beneath=ar",
}

pytestmark = [needs_chromium, once_more_if_late, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server(hand_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The hand-made library with a trace whose maps have so many cells that they are drawn on a canvas."""
    library = tmp_path_factory.mktemp("served") / "library"
    shutil.copytree(hand_library, library)
    write_synthetic(library / "wide", Synthetic(prompts=8, tokens_per_prompt=12, layers=9, experts=256))
    with running_app(library, library.parent) as address:
        yield address


def settled(page) -> None:
    """Wait until the page has its title, computes no more and keeps its colours; what is stale is drawn pale."""
    page.locator(".stMain h1").first.wait_for()
    page.evaluate("window.seen = {}")  # nothing counts of what an earlier call saw
    page.wait_for_function(
        """() => {
          const busy = document.querySelector(
            '[data-testid^="stSkeleton"], [data-testid="stStatusWidget"], [data-stale="true"], ' +
            '.stApp:not([data-test-script-state="notRunning"])'
          );
          const look = [...document.querySelectorAll('.stMain :is(h1, h2, h3, p, label, button)')].map((one) => {
            const {color, opacity} = getComputedStyle(one);
            return color + opacity;
          }).join();
          const {looks, times} = window.seen;
          window.seen = {looks: look, times: busy || look !== looks ? 0 : times + 1};
          return window.seen.times > 4;
        }""",
        polling=150,
    )


def barriers(page, only: str | None = None) -> list[str]:
    """What axe-core calls serious or critical: rule, and the elements; with `only`, of that rule."""
    script = (Path(axe.__file__).parent / "axe.min.js").read_text()
    page.evaluate(f"window.axe || (() => {{ {script} }})()")
    options = {"resultTypes": ["violations"]} | ({"runOnly": [only]} if only else {})
    found = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{one['id']}: {[node['html'][:120] for node in one['nodes'][:3]]}"
        for one in found["violations"]
        if one["impact"] in SERIOUS
    ]


def drawn_in(page, theme: Theme) -> None:
    """Wait until the page is drawn in this theme, by the browser and by Python."""
    page.emulate_media(color_scheme=theme.name)
    page.wait_for_function(
        "color => getComputedStyle(document.documentElement).getPropertyValue('--ms-background') === color",
        arg=theme.background, polling=100,
    )  # fmt: skip
    settled(page)


@pytest.mark.parametrize("name", ADDRESSES)
def test_no_page_has_a_serious_barrier_in_light_or_dark(page, name: str):
    page.goto(ADDRESSES[name])
    # A colour on its way from light to dark is neither.
    page.add_style_tag(content="* { transition: none !important }")
    drawn_in(page, LIGHT)
    assert barriers(page) == []
    drawn_in(page, DARK)
    assert barriers(page, "color-contrast") == []  # nothing but colours differs in the dark


def test_the_first_tab_leads_to_the_figure_where_arrows_walk_and_enter_opens(page):
    page.goto("/heatmap?trace=hand")
    page.locator(".stVegaLiteChart path[aria-label*='expert: 3']").first.wait_for()
    settled(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the controls"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.closest('.st-key-measure') !== null")
    assert page.evaluate("document.activeElement.matches(':focus-visible')")
    page.evaluate("document.activeElement.blur()")
    page.locator("#ms-skip a").first.focus()
    assert page.evaluate("document.activeElement.textContent") == "Skip to the figure"
    page.keyboard.press("Enter")
    figure = page.locator(".stVegaLiteChart:focus")
    figure.locator(".ms-ring").wait_for()
    said = page.locator("#ms-live")
    assert said.inner_text().startswith("layer 0, expert 0,")
    for key, cell in (
        ("ArrowRight", (0, 1)),
        ("ArrowUp", (1, 1)),
        ("ArrowRight", (1, 2)),
        ("ArrowLeft", (1, 1)),
    ):
        page.keyboard.press(key)
        assert said.inner_text().startswith(f"layer {cell[0]}, expert {cell[1]},")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Layer 1, expert 1").wait_for()
    assert "cell=decoder.1.1" in page.url


@pytest.mark.parametrize(
    ("address", "figure"),
    [
        ("/heatmap?trace=wide", ".stVegaLiteChart:has(canvas)"),  # above 2,000 marks Vega draws on a canvas
        ("/structure?trace=wide&question=Map+of+experts", ".stPlotlyChart"),
    ],
)
def test_arrows_walk_and_enter_opens_whatever_drew_the_figure_and_the_expert_is_ringed(page, address, figure):
    page.goto(address)
    page.locator(f"{figure} :is(canvas, .nsewdrag)").first.wait_for()
    settled(page)
    page.locator(figure).evaluate("one => one.focus({focusVisible: true})")
    page.keyboard.press("ArrowRight")
    page.locator(f"{figure} > .ms-ring").wait_for()
    page.wait_for_function("document.getElementById('ms-live').innerText.startsWith('layer ')")
    layer, expert = re.findall(r"\d+", page.locator("#ms-live").inner_text())[:2]
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=f"Layer {layer}, expert {expert}", exact=True).wait_for()
    settled(page)
    walked = page.locator(f"{figure} > .ms-ring").bounding_box()
    ringed = page.locator(f"{figure} > .ms-linked")
    ringed.wait_for()
    for side in ("x", "y"):  # the ring of what is chosen lies where the arrows were
        assert ringed.bounding_box()[side] == pytest.approx(walked[side], abs=2)


def test_a_chosen_token_and_its_expert_are_marked_in_text_and_grid(page):
    page.goto("/tokens?trace=hand&prompt=en-0")
    token = page.locator(".ms-token").nth(3)
    token.wait_for()
    settled(page)
    token.click()
    page.get_by_role("heading", name="Layer 0, expert ").wait_for()
    chosen = page.locator(".ms-token.ms-chosen")
    chosen.wait_for()
    assert chosen.count() == 1
    assert "ms-linked" in chosen.get_attribute("class")  # it goes to the expert that it opened
    rings = page.locator(".st-key-token-grid-1 .ms-linked")
    rings.first.wait_for()
    column = max((ring.bounding_box() for ring in rings.all()), key=lambda box: box["height"])
    marks = page.locator(".st-key-token-grid-1 path[aria-label*='position: 3;']")
    for mark in (mark.bounding_box() for mark in marks.all()):
        assert column["y"] <= mark["y"]
        assert column["x"] <= mark["x"] < column["x"] + column["width"]
        assert mark["y"] + mark["height"] <= column["y"] + column["height"]


def test_the_open_expert_is_marked_in_tables_and_goes_along_to_the_switchboard(page):
    page.goto("/resonance?trace=hand&contrast=language&target=Japanese+(ja)")
    table = page.locator(".st-key-rows-top-experts [data-testid='stDataFrame']")
    table.locator("td").first.wait_for(state="attached")
    settled(page)
    rows = table.locator("tr[aria-rowindex]").evaluate_all(
        "rows => rows.map(row => [...row.querySelectorAll('td')].slice(1, 3).map(one => one.textContent))"
    )
    layer, expert = rows[3]  # the head is row 0
    page.locator(
        f'.st-key-scan-cell path[aria-label*="layer: {layer};"][aria-label*="expert: {expert};"]'
    ).first.click()
    page.get_by_role("heading", name=f"Layer {layer}, expert {expert}").wait_for()
    ring = table.locator(".ms-linked")
    ring.wait_for()
    box, whole = ring.bounding_box(), table.bounding_box()
    high = table.locator(".dvn-stack").evaluate("one => one.offsetHeight / (1 + 20)")
    assert box["y"] + box["height"] / 2 - whole["y"] == pytest.approx(3.5 * high, abs=3)
    page.get_by_role("button", name="Switch off").click()
    board = page.locator(".ms-board-scroll")
    mark = board.locator(".ms-linked")
    mark.wait_for()
    sizes = board.locator("canvas").evaluate("one => Object.values({...one.dataset}).slice(0, 4).map(Number)")
    left, top, cell, step = sizes
    box, whole = mark.bounding_box(), board.bounding_box()
    assert box["x"] + box["width"] / 2 - whole["x"] == pytest.approx(left + (int(expert) + 0.5) * cell, abs=2)
    assert box["y"] + box["height"] / 2 - whole["y"] == pytest.approx(
        top + (3.5 - int(layer)) * step, abs=2
    )  # 4 layers


def test_a_row_of_a_table_is_chosen_by_enter(page):
    page.goto("/?trace=hand")
    page.locator('.st-key-rows-library [data-testid="stDataFrame"] canvas').first.wait_for()
    settled(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.locator(".st-key-details").wait_for()


def test_arrows_walk_over_a_text_and_enter_opens_the_expert(page):
    page.goto("/tokens?trace=hand&prompt=en-0")
    page.locator(".ms-token").nth(3).wait_for()
    settled(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator(".ms-text:focus").wait_for()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.locator(".ms-token.ms-at").inner_text() == "All"
    assert page.locator("#ms-live").inner_text().startswith("All, token 1, experts ")
    expert = page.locator(".ms-token.ms-at").get_attribute("data-first")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=f"Layer 0, expert {expert}").wait_for()


@pytest.mark.parametrize(
    ("width", "cell"), [(1440, "decoder.1.1"), (1440, "decoder.1.7"), (800, "decoder.1.1")]
)
def test_an_opened_expert_is_seen_and_moves_nothing(page, width: int, cell: str):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto("/heatmap?trace=hand")
    figure = page.locator(".st-key-map .stVegaLiteChart")
    figure.locator("path").first.wait_for()
    settled(page)
    before = figure.bounding_box()
    _, layer, expert = cell.split(".")
    mark = page.locator(
        f'.st-key-map path[aria-label*="layer: {layer};"][aria-label*="expert: {expert};"]'
    ).first
    mark.click()
    heading = page.get_by_role("heading", name=f"Layer {layer}, expert {expert}")
    heading.wait_for()
    settled(page)
    assert figure.bounding_box() == before
    assert heading.evaluate("e => e.getBoundingClientRect().top < innerHeight - 100")
    if width == 1440:  # the chosen cell stays in sight
        assert mark.evaluate(
            """e => { const {x, y, width, height} = e.getBoundingClientRect();
                      const top = document.elementFromPoint(x + width / 2, y + height / 2);
                      return !!top.closest('.stVegaLiteChart'); }"""
        )
    page.keyboard.press("Escape")
    heading.wait_for(state="detached")

"""The Steer page in a real browser, with the bundled model: a click, two answers, and the way back.

One app and one model process for the whole file. Skipped where Chromium is not installed.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from real_browser import CHROMIUM, at_rest, needs_chromium, once_more_if_late, running_app, session

from moescope.store import open_trace, sample_dir

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
MILLISECONDS = 90_000

pytestmark = [needs_chromium, once_more_if_late, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running app that knows the bundled trace alone."""
    folder = tmp_path_factory.mktemp("steer")
    with running_app(folder / "library", folder) as address:
        yield address


@pytest.fixture
def page(browser, server: str) -> Iterator:
    """A fresh session that may talk to the app alone."""
    with session(browser, server, height=1100, patience_ms=MILLISECONDS) as tab:
        yield tab


def board(page):
    return page.locator(".ms-board-scroll canvas")


def opened(page, address: str) -> None:
    """The Steer page at this address, once its model answers."""
    page.goto(address)
    page.locator(".ms-server.ms-running").wait_for()
    board(page).wait_for()


def at(page, layer: int, expert: int) -> tuple[float, float]:
    """Where a cell of the switchboard stands on the screen, all of it read in one moment, once it takes clicks."""
    page.locator(".ms-board[data-settled]").wait_for()
    at_rest(board(page))
    data = board(page).evaluate(
        "e => ({...e.dataset, x: e.getBoundingClientRect().x, y: e.getBoundingClientRect().y})"
    )
    x, y, left, top, cell, step = (float(data[name]) for name in ("x", "y", "left", "top", "cell", "step"))
    return x + left + (expert + 0.5) * cell, y + top + (LAYERS - 1 - layer + 0.5) * step


def states(page, expected: str) -> None:
    """Wait until the board shows these states, a digit a cell from layer 0 on: neutral, off, on."""
    page.locator(f'.ms-board-scroll canvas[data-states="{expected}"]').wait_for()


def drawn(*cells: tuple[int, int], state: str = "1") -> str:
    digits = ["0"] * (LAYERS * EXPERTS)
    for layer, expert in cells:
        digits[layer * EXPERTS + expert] = state
    return "".join(digits)


_ROUTERS = open_trace(str(sample_dir() / "trace")).routers if CHROMIUM else []
LAYERS, EXPERTS = len(_ROUTERS), max((router.num_experts for router in _ROUTERS), default=0)


def test_the_board_stands_where_it_stays_while_the_model_is_loaded(page):
    """The first of the file: the others find the model loaded."""
    page.goto("/steer?trace=sample&ask=Everyone&new=4")
    page.locator(".ms-board[data-settled]").wait_for()
    place = board(page).bounding_box()
    page.locator(".ms-server.ms-running").wait_for()
    at_rest(board(page))
    assert board(page).bounding_box() == place


def test_quick_clicks_on_different_cells_are_all_kept(page):
    opened(page, "/steer?trace=sample&ask=Everyone&new=4")
    places = [at(page, layer, 2) for layer in (1, 2, 3)]
    for place in places:  # a few milliseconds apart
        page.mouse.click(*place)
    states(page, drawn((1, 2), (2, 2), (3, 2)))


def test_a_click_switches_off_the_answers_part_and_undo_and_the_link_bring_it_back(page):
    opened(page, "/steer?trace=sample&ask=All+human+beings+are+born+free+and&new=16")
    page.mouse.click(*at(page, 5, 3))
    page.get_by_text("off: layer 5: 3").wait_for()
    states(page, drawn((5, 3)))

    middle, most = LAYERS // 2, EXPERTS * 3 // 4
    page.mouse.move(*at(page, middle - 1, 0))
    page.mouse.down()
    page.mouse.move(*at(page, middle + 1, most - 1), steps=4)
    page.mouse.up()
    boxed = {(layer, expert) for layer in range(middle - 1, middle + 2) for expert in range(most)}
    states(page, drawn(*boxed, (5, 3)))
    page.wait_for_url(re.compile("profile="))

    page.get_by_role("button", name="Generate").click()
    page.get_by_text("The answers part at token").wait_for()
    assert page.locator(".ms-answer mark").count() > 0
    assert page.locator(".ms-caret").count() == 0
    shared = page.url

    page.get_by_role("button", name="Undo").click()
    states(page, drawn((5, 3)))
    page.get_by_text("The steering has changed since").wait_for(state="attached")

    page.goto("about:blank")
    opened(page, shared)
    states(page, drawn(*boxed, (5, 3)))


def test_a_second_click_turns_on_a_third_leaves_alone_and_both_answers_are_identical(page):
    opened(page, "/steer?trace=sample&ask=Everyone+has+the+right+to&new=8")
    for state in "120":
        page.mouse.click(*at(page, 2, 7))
        states(page, drawn((2, 7), state=state))
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("both answers are identical").wait_for()
    assert page.locator(".ms-answer mark").count() == 0


def test_a_vector_is_learned_and_forgotten(page):
    opened(page, "/steer?trace=sample&ask=Everyone+has+the+right+to+life&new=8")
    page.get_by_role("radio", name="learn").click()
    form = page.locator(".st-key-steer-side")
    form.get_by_role("button", name="Learn", exact=True).click()
    page.get_by_text(re.compile(r"the loss of the text .* fell from \d")).wait_for()
    page.get_by_text(f"vector in layers 0–{LAYERS - 1}").wait_for()
    # While the page is drawn anew, the button of before, still disabled, stands beside the new one.
    form.get_by_role("button", name="Forget the vector", disabled=False).click()
    page.get_by_text("No rules: the model runs as it is").wait_for()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_killed_model_is_said_and_restarted_with_the_steering_kept(page):
    opened(page, "/steer?trace=sample&ask=Everyone+has+the+right+to&new=4")
    page.mouse.click(*at(page, 2, 7))
    states(page, drawn((2, 7)))
    os.kill(served_by(page.url), signal.SIGKILL)
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("It was killed").wait_for()
    page.get_by_role("button", name="Restart").click()
    page.locator(".ms-server.ms-running").wait_for()
    states(page, drawn((2, 7)))
    page.get_by_role("button", name="Generate").click()
    page.get_by_text(re.compile("answers (are|part|have)")).wait_for()


def served_by(url: str) -> int:
    """The process that serves the model to the app at this address: the app's only child of that name."""
    port = urlsplit(url).port
    processes = {int(p.name): p for p in Path("/proc").iterdir() if p.name.isdigit()}

    def words(pid: int) -> list[str]:
        try:
            return (processes[pid] / "cmdline").read_text().split("\0")
        except OSError:
            return []

    def parent(pid: int) -> int:
        try:
            return int((processes[pid] / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return 0

    (app,) = [pid for pid in processes if {"streamlit", str(port)} <= set(words(pid))]
    (found,) = [pid for pid in processes if parent(pid) == app and "serve" in words(pid)]
    return found

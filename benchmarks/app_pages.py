"""How soon every page of the app shows its first figure, what a changed control costs, and what the browser gets.

    python benchmarks/app_pages.py [--library DIR] [--trace NAME] [--rounds 5] [--pages heatmap tokens ...]
    python benchmarks/app_pages.py --sessions 20 --minutes 3

Pages are loaded in turn with an empty Streamlit page in the same Chromium; `later` is the difference of a pair, so that
a busy machine slows both. Each page is loaded once before. Bytes are those of the session's WebSocket. With --sessions
so many visitors walk over all pages at once: exceptions they saw, and the memory of the app's process.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from moescope.app.running import running

PAGES = (
    "library",
    "heatmap",
    "tokens",
    "structure",
    "alignment",
    "resonance",
    "compare",
    "steer",
    "deploy",
    "data",
)
FIGURE = (
    ".stMain :is(.stVegaLiteChart svg.marks, .stVegaLiteChart canvas, .js-plotly-plot, .ms-text, .ms-board canvas, "
    '[data-testid="stDataFrame"] canvas, .ms-card) >> visible=true'
)
EMPTY = 'import streamlit as st\nst.markdown("ready")\n'
CONTROL = '.stMain [data-testid="stButtonGroup"] button >> visible=true'
PATIENCE_MS = 120_000


def first_figure(browser: Browser, address: str, selector: str) -> tuple[float, int, Page]:
    """Seconds until the first figure, bytes received until then, and the page."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    received = [0]
    page.on("websocket", lambda one: one.on("framereceived", lambda frame: _count(received, frame)))
    started = time.perf_counter()
    page.goto(address)
    page.locator(selector).first.wait_for(timeout=PATIENCE_MS)
    return time.perf_counter() - started, received[0], page


def _count(received: list[int], frame: str | bytes) -> None:
    received[0] += len(frame)


def changed_control(page: Page, times: int = 4) -> list[float]:
    """Seconds from a click on a choice of the page until the app has run again; empty where it has none."""
    if not page.locator(CONTROL).count():
        return []
    took = []
    for number in range(times):
        buttons = page.locator(CONTROL)
        started = time.perf_counter()
        buttons.nth(number % min(2, buttons.count())).click()
        page.wait_for_function(
            """() => !document.querySelector('[data-testid^="stSkeleton"], [data-stale="true"]')
                     && document.querySelector('.stApp').dataset.testScriptState !== 'running'""",
            polling=20, timeout=PATIENCE_MS,
        )  # fmt: skip
        took.append(time.perf_counter() - started)
    return took


def measure(browser: Browser, app: str, empty: str, name: str, trace: str, rounds: int) -> str:
    """A row of the table."""
    address = f"{app}/{'' if name == 'library' else name}?trace={trace}"
    first_figure(browser, address, FIGURE)[2].close()
    later, sizes, controls = [], [], []
    for _ in range(rounds):
        plain, _, blank = first_figure(browser, empty, "text=ready")
        blank.close()
        seconds, size, page = first_figure(browser, address, FIGURE)
        later.append(seconds - plain)
        sizes.append(size)
        if name not in ("library", "steer"):
            controls += changed_control(page)
        page.close()
    p95 = f"{1000 * sorted(controls)[int(0.95 * (len(controls) - 1))]:.0f}" if controls else ""
    ends = f"{min(later):.2f}–{max(later):.2f}"
    return (
        f"| {name} | {statistics.median(later):.2f} | {ends} | {p95} | {statistics.median(sizes) / 1e6:.2f} |"
    )


def memory(pid: int) -> float:
    """Resident megabytes of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000


def crowd(browser: Browser, app: str, pid: int, trace: str, sessions: int, minutes: float) -> None:
    """So many sessions walk over all pages for so long."""
    pages = [browser.new_context().new_page() for _ in range(sessions)]
    failures, loads, until = 0, 0, time.monotonic() + 60 * minutes
    sizes = []
    while time.monotonic() < until:
        name = PAGES[loads // sessions % len(PAGES)]
        for page in pages:
            page.goto(f"{app}/{'' if name == 'library' else name}?trace={trace}", wait_until="commit")
        for page in pages:
            page.locator(FIGURE).first.wait_for(timeout=PATIENCE_MS)
            failures += page.get_by_test_id("stException").count() + page.locator(".ms-card.ms-error").count()
        loads += sessions
        sizes.append(memory(pid))
        print(f"{name}: {loads} loads, {failures} failures, {sizes[-1]:.0f} MB", flush=True)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path)
    parser.add_argument("--trace", default="sample")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pages", nargs="+", default=PAGES)
    parser.add_argument("--sessions", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=3.0)
    asked = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("no Chromium on the PATH")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        blank = Path(folder) / "empty.py"
        blank.write_text(EMPTY)
        library = asked.library.absolute() if asked.library else Path(folder) / "library"
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        with running(library) as (app, pid), running(library, script=blank) as (empty, _):
            if asked.sessions:
                crowd(browser, app, pid, asked.trace, asked.sessions, asked.minutes)
                return
            print(
                "| page | first figure later than an empty page, s | least–most | changed control, p95 ms | MB |"
            )
            print("|---|---:|---|---:|---:|")
            for name in asked.pages:
                print(measure(browser, app, empty, name, asked.trace, asked.rounds), flush=True)


if __name__ == "__main__":
    main()

"""How soon every page of the app shows its first figure, what a changed control costs, and what the browser gets.

    python benchmarks/app_pages.py [--library DIR] [--trace NAME] [--rounds 5] [--pages heatmap tokens ...]
    python benchmarks/app_pages.py --sessions 20 --minutes 3

Pages are loaded in turn with an empty Streamlit page in the same Chromium; `later` is the difference of a pair, so that
a busy machine slows both. The Chromium has been there before: it has the scripts of both, as that of a reader has from
the second page on. `first visit` is the same with a browser that has nothing, of an app that has worked out nothing.
A changed control is a click on a choice that was not taken, until the app has run and nothing on the page is stale; the
first click on each is among them, so what had to be worked out counts. The largest message to the browser is that of
its largest figure or table. With --sessions so many visitors speak with the app as browsers do and draw nothing (twenty
Chromiums would keep the machine busy by themselves), each from page to page for so long: exceptions and error cards
that they got, how long a page took until it was whole, and the memory of the app.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import websockets
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, sync_playwright
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

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
    "reports",
    "data",
)
FIGURE = (
    ".stMain :is(.stVegaLiteChart svg.marks, .stVegaLiteChart canvas, .js-plotly-plot, .ms-text, .ms-board canvas, "
    '[data-testid="stDataFrame"] canvas, .ms-card) >> visible=true'
)
EMPTY = 'import streamlit as st\nst.markdown("ready")\n'
CONTROL = '.stMain [data-testid="stButtonGroup"] button[aria-checked="false"] >> visible=true'
"""Choices that are not taken."""
MOST_CHOICES = 4
WITHOUT_CONTROLS = ("library", "steer", "reports")
FINISHED = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_WITH_COMPILE_ERROR)
"""Not FINISHED_EARLY_FOR_RERUN: another run of the same page follows."""
VIEWPORT: ViewportSize = {"width": 1440, "height": 900}
ARGUMENTS = ["--no-sandbox", "--disable-gpu"]
PATIENCE_MS = 120_000


def first_figure(context: BrowserContext, address: str, selector: str) -> tuple[float, list[int], Page]:
    """Seconds until the first figure, the sizes of the messages (they go on arriving), and the page."""
    page = context.new_page()
    received: list[int] = []
    page.on("websocket", lambda one: one.on("framereceived", lambda frame: received.append(len(frame))))
    started = time.perf_counter()
    page.goto(address)
    page.locator(selector).first.wait_for(timeout=PATIENCE_MS)
    return time.perf_counter() - started, received, page


def changed_controls(page: Page) -> list[float]:
    """Seconds from a click on a choice until the app has run again, for each choice of the page's first controls."""
    settled(page)
    took = []
    for number in range(MOST_CHOICES):
        if number >= page.locator(CONTROL).count():  # a choice may take others away
            break
        button = page.locator(CONTROL).nth(number)
        started = time.perf_counter()
        button.click()
        settled(page)
        took.append(time.perf_counter() - started)
    return took


def settled(page: Page) -> None:
    """Wait until the app has run and nothing on the page is stale."""
    page.wait_for_timeout(30)  # the click is on its way
    page.wait_for_function(
        """() => !document.querySelector('[data-testid^="stSkeleton"], [data-stale="true"]')
                 && document.querySelector('.stApp').dataset.testScriptState === 'notRunning'""",
        polling=20, timeout=PATIENCE_MS,
    )  # fmt: skip


def measure(browser: Browser, app: str, empty: str, name: str, trace: str, rounds: int) -> str:
    """A row of the table."""
    address = f"{app}/{'' if name == 'library' else name}?trace={trace}"
    with browser.new_context(viewport=VIEWPORT) as fresh:
        plain, _, _ = first_figure(fresh, empty, "text=ready")
    with browser.new_context(viewport=VIEWPORT) as fresh:
        first = first_figure(fresh, address, FIGURE)[0] - plain
    known = browser.new_context(viewport=VIEWPORT)
    for known_address, selector in ((empty, "text=ready"), (address, FIGURE)):
        first_figure(known, known_address, selector)[2].close()
    later, sizes, controls = [], [0], []
    for _ in range(rounds):
        plain, _, blank = first_figure(known, empty, "text=ready")
        blank.close()
        seconds, received, page = first_figure(known, address, FIGURE)
        later.append(seconds - plain)
        if name not in WITHOUT_CONTROLS:
            controls += changed_controls(page)
        sizes += received
        page.close()
    known.close()
    half = f"{1000 * statistics.median(controls):.0f}" if controls else ""
    p95 = f"{1000 * sorted(controls)[int(0.95 * (len(controls) - 1))]:.0f}" if controls else ""
    ends = f"{min(later):.2f}–{max(later):.2f}"
    middle = statistics.median(later)
    return f"| {name} | {middle:.2f} | {ends} | {first:.2f} | {half} | {p95} | {max(sizes) / 1e6:.2f} |"


def memory(pid: int) -> float:
    """Resident megabytes of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000


async def crowd(app: str, pid: int, trace: str, sessions: int, minutes: float) -> None:
    """So many visitors, each with a session of its own, walk over all pages for so long, a page after another."""
    took: list[float] = []
    failures: list[str] = []
    until = time.monotonic() + 60 * minutes

    async def visit(number: int) -> None:
        address = app.replace("http", "ws") + "/_stcore/stream"
        async with websockets.connect(address, max_size=None, ping_interval=None) as session:
            for step in itertools.count(number):
                if time.monotonic() > until:
                    return
                name = PAGES[step % len(PAGES)]
                started = time.monotonic()
                failures.extend(f"{name}: {wrong}" for wrong in await shown(session, name, trace))
                took.append(time.monotonic() - started)

    async def tell() -> None:
        while time.monotonic() < until:
            print(f"{len(took)} pages, {len(failures)} failures, {memory(pid):.0f} MB", flush=True)
            await asyncio.sleep(15)

    await asyncio.gather(tell(), *(visit(number) for number in range(sessions)))
    slow = sorted(took)[int(0.95 * (len(took) - 1))]
    print(
        f"{len(took)} pages; median {statistics.median(took):.1f} s, p95 {slow:.1f} s; {memory(pid):.0f} MB; "
        f"failures: {failures}"
    )


async def shown(session: websockets.ClientConnection, name: str, trace: str) -> list[str]:
    """Ask for a page as the browser does and take in all that it is made of; what went wrong in it."""
    asked = BackMsg()
    asked.rerun_script.query_string = f"trace={trace}"
    asked.rerun_script.page_name = "" if name == "library" else name
    await session.send(asked.SerializeToString())
    wrong = []
    async with asyncio.timeout(PATIENCE_MS / 1000):
        while True:
            told = ForwardMsg.FromString(await session.recv(decode=False))
            element = told.delta.new_element
            if element.WhichOneof("type") == "exception":
                wrong.append(element.exception.message)
            if "ms-card ms-error" in element.html.body:
                wrong.append(element.html.body[:200])
            if told.WhichOneof("type") == "script_finished" and told.script_finished in FINISHED:
                return wrong


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
    if asked.sessions:
        with (
            tempfile.TemporaryDirectory() as folder,
            running(asked.library or Path(folder) / "library") as (app, pid),
        ):
            asyncio.run(crowd(app, pid, asked.trace, asked.sessions, asked.minutes))
        return
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        blank = Path(folder) / "empty.py"
        blank.write_text(EMPTY)
        library = asked.library.absolute() if asked.library else Path(folder) / "library"
        with running(library) as (app, pid), running(library, script=blank) as (empty, _):
            browser = play.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            print(
                "| page | first figure later than an empty page, s | least–most | first visit, s "
                "| changed control, median ms | p95 ms | largest figure, MB |"
            )
            print("|---|---:|---|---:|---:|---:|---:|")
            for name in asked.pages:
                print(measure(browser, app, empty, name, asked.trace, asked.rounds), flush=True)


if __name__ == "__main__":
    main()

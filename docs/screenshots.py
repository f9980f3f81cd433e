"""Makes the pictures of docs/app.md: `python docs/screenshots.py [PAGE ...]`, with Chromium on the PATH.

Starts the app on the bundled sample, opens each page in a headless browser, and writes docs/img/PAGE.png,
each below 250 kB.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from moescope.app.running import running
from moescope.app.screens.library.tour_stops import FRENCH_PROMPT, WITHOUT_FRENCH
from moescope.app.steering import profiles

PAGES = {
    "library": "/?trace=sample",
    "heatmap": "/heatmap?trace=sample",
    "tokens": "/tokens?trace=sample&prompt=udhr-01/en&beneath=ja",
    "structure": "/structure?trace=sample&question=Paths",
    "alignment": "/alignment?trace=sample&lines=script",
    "resonance": "/resonance?trace=sample&contrast=language&target=Japanese+%28ja%29",
    "deploy": "/deploy?trace=sample",
    "data": "/data?trace=sample",
    "steer": "/steer?trace=sample&" + urlencode({"profile": profiles.in_address(WITHOUT_FRENCH)}),
}
"""Name of the picture → address of the page."""
SIZES = {"resonance": (1200, 1180), "library": (1440, 850), "alignment": (1440, 900), "data": (1440, 900)}
SIZE = (1200, 820)
LARGEST = 250_000
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
IMAGES = Path(__file__).parent / "img"
PATIENCE = 120
BUSY = '[data-testid^="stSkeleton"], [data-testid="stStatusWidget"], [data-testid="stSpinner"]'
"""What stands on a page that still computes."""


def settle(page: Page) -> None:
    """Wait until the page computes no more."""
    page.wait_for_selector("h1", timeout=PATIENCE * 1000)
    until = time.monotonic() + PATIENCE
    quiet = 0
    while quiet < 4 and time.monotonic() < until:
        busy = page.locator(BUSY).count()
        quiet = 0 if busy else quiet + 1
        time.sleep(0.5)


def _show_answers(page: Page) -> None:
    """Two answers of the bundled model, with one expert off."""
    page.locator(".ms-server.ms-running").wait_for(timeout=PATIENCE * 1000)
    page.get_by_role("textbox", name="Prompt").fill(FRENCH_PROMPT)
    page.get_by_role("button", name="Generate").click()
    page.locator('[class*="st-key-steer-strip"]').first.wait_for(timeout=PATIENCE * 1000)
    settle(page)


def small(png: bytes) -> bytes:
    """The picture, in fewer colours where it would be above the limit."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    for colors in (255, 128, 64):
        if buffer.tell() <= LARGEST:
            break
        buffer = io.BytesIO()
        image.quantize(colors, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(names: list[str]) -> None:
    """Take the named pictures, or all."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium on the PATH")
    with (
        tempfile.TemporaryDirectory() as library,
        running(Path(library)) as (address, _),
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        for name in names or list(PAGES):
            width, height = SIZES.get(name, SIZE)
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(address + PAGES[name])
            settle(page)
            page.locator(".stMain").evaluate("main => main.scrollTo(0, 0)")
            if name == "steer":
                _show_answers(page)
            data = small(page.screenshot())
            (IMAGES / f"{name}.png").write_bytes(data)
            print(f"docs/img/{name}.png  {len(data) / 1000:.0f} kB")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])

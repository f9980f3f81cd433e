"""The app in a real Chromium: what the browser tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from moescope.app.running import running

CHROMIUM = os.environ.get("MOESCOPE_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
needs_chromium = pytest.mark.skipif(
    not CHROMIUM, reason="no Chromium is installed, nor named in MOESCOPE_CHROMIUM"
)
# A busy machine can draw a page later than anyone waits; a page that never comes fails twice.
once_more_if_late = pytest.mark.flaky(reruns=1, only_rerun=["TimeoutError"])


@contextmanager
def running_app(library: Path, folder: Path) -> Iterator[str]:
    """Address of an app on a library; its log goes to `folder`."""
    with (folder / "log.txt").open("wb") as log, running(library, log=log) as (address, _):
        yield address


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def session(browser: Any, address: str, *, height: int, patience_ms: int) -> Iterator[Any]:
    """The page of a fresh session, 1440 pixels wide; at its end it must have asked nobody but the app, and
    show no exception."""
    context = browser.new_context(
        base_url=address, viewport={"width": 1440, "height": height}, accept_downloads=True
    )
    context.set_default_timeout(patience_ms)
    tab = context.new_page()
    outside: list[str] = []
    inside = (address, "data:", "blob:", address.replace("http", "ws"))
    tab.on("request", lambda r: None if r.url.startswith(inside) else outside.append(r.url))
    yield tab
    assert not outside, f"the page asked for {outside}"
    assert tab.get_by_test_id("stException").count() == 0
    context.close()


def at_rest(locator: Any) -> None:
    """Wait until an element has kept its place and size for 300 ms: columns change their width while a page
    loads, and a point measured before that would be clicked beside.
    """
    locator.evaluate(
        """element => new Promise(resolve => {
          let last = "", since = 0;
          const look = now => {
            const {x, y, width, height} = element.getBoundingClientRect();
            const seen = [x, y, width, height].join();
            if (seen !== last) [last, since] = [seen, now];
            if (now - since > 300) resolve(); else requestAnimationFrame(look);
          };
          requestAnimationFrame(look);
        })"""
    )

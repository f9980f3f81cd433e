"""One app on the hand-made library and one browser for all files of tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_browser import chromium, running_app, session

PATIENCE_MS = 120_000


@pytest.fixture(scope="session")
def server(hand_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running app on a copy of the hand-made library."""
    library = tmp_path_factory.mktemp("served") / "library"
    shutil.copytree(hand_library, library)
    with running_app(library, library.parent) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser, server: str) -> Iterator:
    """A fresh session that may talk to the app alone."""
    with session(browser, server, height=1000, patience_ms=PATIENCE_MS) as tab:
        yield tab
        assert tab.evaluate("window.hacked") is None

"""A rule that would search for ever is given up and named, and holds up nobody else."""

from __future__ import annotations

import threading
import time

import pytest

from moescope.store import StoreError, response_classes


def test_a_catastrophic_expression_ends_in_words(monkeypatch):
    monkeypatch.setattr(response_classes, "SECONDS", 0.3)
    ticks: list[float] = []
    end = threading.Event()

    def tick() -> None:
        while not end.wait(0.01):
            ticks.append(time.monotonic())

    other = threading.Thread(target=tick)
    other.start()
    try:
        with pytest.raises(StoreError, match=r"took longer than 0\.3 s"):
            response_classes.classify("ab" * 40 + "dc", {"x": [r"^(?:a|b|ab)*c"]})
    finally:
        end.set()
        other.join()
    assert len(ticks) > 5

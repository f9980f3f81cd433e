"""The app as a process of its own on a free port: for pictures, benchmarks and browser tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

MAIN = Path(__file__).with_name("main.py")
PATIENCE_SECONDS = 120


@contextmanager
def running(library: Path, *, script: Path = MAIN, log: IO[bytes] | None = None) -> Iterator[tuple[str, int]]:
    """Address and process id of the app on a library, until the block ends.

    Args:
        script: another Streamlit script instead of the app.
        log: where the process writes; nowhere if left out.
    Raises:
        RuntimeError: the app did not answer in time, or ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "port": port,
        "headless": "true",
        "fileWatcherType": "none",
    }
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--browser.gatherUsageStats", "false"]
    command += [word for name, value in settings.items() for word in (f"--server.{name}", str(value))]
    environment = os.environ | {"MOESCOPE_LIBRARY": str(library)}
    told = subprocess.DEVNULL if log is None else log
    # Streamlit looks for settings and pages below the folder that it starts in.
    process = subprocess.Popen(command, env=environment, cwd=script.parent, stdout=told, stderr=told)
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{script.name} did not start within {PATIENCE_SECONDS} s")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(20)


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False

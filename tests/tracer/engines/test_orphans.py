"""A worker ends soon after the process that drives it was killed, and not before."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

pytest.importorskip("psutil", reason="psutil comes with vLLM", exc_type=ImportError)
WORKER = """
import sys, time
from moescope.tracer.engines.vllm.orphans import end_with
end_with(sys.argv[1], int(sys.argv[2]))
print("watching", flush=True)
time.sleep(60)
"""
DRIVER = """
import subprocess, sys, time
from moescope.tracer.engines.vllm.orphans import this_process
subprocess.Popen([sys.executable, "-c", sys.argv[1], *map(str, this_process())])
time.sleep(60)
"""


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "a zombie"])
def test_a_killed_driver_takes_its_worker_along(reaped: bool) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, WORKER], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "watching\n"
    time.sleep(1.2)  # longer than a turn of the watch: it lives as long as its driver does
    driver.kill()
    if reaped:
        driver.wait()
    started = time.monotonic()
    assert driver.stdout.read() == ""  # the worker held the pipe
    assert time.monotonic() - started < 20
    driver.wait()

"""Workers end with the process that drives the engine.

vLLM's processes outlive a driver that was killed (SIGKILL, out of memory): they would keep the devices' memory, and
`--resume` would find none left.
"""

# psutil comes with vLLM; it is not there where the types are checked.
# pyright: reportMissingModuleSource=false, reportMissingImports=false

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Any

EVERY_SECONDS = 1.0


def this_process() -> list[Any]:
    """What `end_with` needs to know of a process: machine and number."""
    return [socket.gethostname(), os.getpid()]


def end_with(machine: str, pid: int) -> None:
    """End this process soon after another one on this machine; of processes elsewhere nothing can be seen."""
    import psutil

    if machine != socket.gethostname():
        return
    with contextlib.suppress(psutil.NoSuchProcess):  # in a container that numbers its processes otherwise
        driver = psutil.Process(pid)
        threading.Thread(target=_watch, args=(driver,), name="moescope-driver", daemon=True).start()


def _watch(driver: Any) -> None:
    while _lives(driver):
        time.sleep(EVERY_SECONDS)
    os._exit(1)


def _lives(process: Any) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

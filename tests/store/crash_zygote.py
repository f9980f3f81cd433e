"""A process that forks writers, so that a test can kill many of them without importing pyarrow each time.

Reads JSON lines {"folder", "plan", "crash_at", "whole_parts"}; answers with the child's pid; the child prints a line
`committed N` after each part, and `done`. With `crash_at` it dies, without any clean-up, at that system call that
changes the disk.
"""

from __future__ import annotations

import json
import os
import sys

from moescope.store.write import ledger, synthetic
from moescope.store.write.writer import TraceWriter


def crash_at(step: int) -> None:
    """End the process at the given open, write, fsync, replace or unlink, before it is carried out."""
    left = [step]
    for name in ("open", "write", "fsync", "replace", "unlink"):
        original = getattr(os, name)

        def counted(*args, _original=original, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os._exit(137)
            return _original(*args, **kwargs)

        setattr(os, name, counted)


def child(request: dict) -> None:
    tell = os.write
    write = TraceWriter.write

    def told(self, part) -> None:
        write(self, part)
        tell(1, f"committed {len(self.committed_prompts)}\n".encode())

    TraceWriter.write = told
    ledger.WHOLE_PARTS = request["whole_parts"]
    if request["crash_at"]:
        crash_at(request["crash_at"])
    synthetic.write_synthetic(request["folder"], synthetic.Synthetic(**request["plan"]), resume=True)
    tell(1, b"done\n")


# A killed process loses nothing that it handed to the kernel: only a power cut would, and waiting takes long.
os.fsync = lambda descriptor: None

for line in sys.stdin:
    asked = json.loads(line)
    pid = os.fork()
    if pid == 0:
        try:
            child(asked)
        finally:
            os._exit(0)
    os.write(1, f"pid {pid}\n".encode())
    os.waitpid(pid, 0)
    os.write(1, b"ended\n")

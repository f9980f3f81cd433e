"""Starts `moescope serve` as a process of its own, and notices when it dies."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Literal

PARENT_VARIABLE = "MOESCOPE_PARENT_PID"
"""A server that was started by another program ends with it: no model stays behind in memory."""

TAIL_BYTES = 4000


class ServerCrashed(RuntimeError):
    """The model process ended by itself; `log_tail` is the end of what it said."""

    def __init__(self, message: str, log_tail: str) -> None:
        super().__init__(message)
        self.log_tail = log_tail


class ServerProcess:
    """A `moescope serve` process; `url` and `token` are known once `wait_ready` has returned.

    Args:
        model: a name or a folder.
        options: options of `moescope serve`, as device="cpu"; several values of one as a list.
        command: what to run instead of this Python's moescope, up to and without `serve`.
    """

    def __init__(self, model: str, options: dict[str, Any], command: list[str] | None = None) -> None:
        self.model = model
        self.url = ""
        self.token = ""
        self._command = [*(command or [sys.executable, "-m", "moescope.app"]), "serve", model]
        for name, value in options.items():
            flag = "--" + name.replace("_", "-")
            for one in value if isinstance(value, (list, tuple)) else [value]:
                self._command += [flag] if one is True else [flag, str(one)]
        self.log_path = Path(tempfile.mkdtemp(prefix="moescope-serve-")) / "log.txt"
        self._line = ""
        self._process = self._launch()
        atexit.register(self.stop)

    @property
    def state(self) -> Literal["starting", "running", "crashed"]:
        """`crashed` also after `stop`: there is no process."""
        if self._process.poll() is not None:
            return "crashed"
        return "running" if self.url else "starting"

    @property
    def end(self) -> str:
        """How it ended, in a few words; empty while it runs."""
        code = self._process.poll()
        if code is None:
            return ""
        if code == -signal.SIGKILL:
            return "it was killed, probably for lack of memory"
        if code < 0:
            return f"it was ended by signal {-code} ({signal.Signals(-code).name})"
        return f"it ended with code {code}"

    @property
    def log_tail(self) -> str:
        """The end of what the process wrote to stderr."""
        return self.log_path.read_bytes()[-TAIL_BYTES:].decode(errors="replace")

    def wait_ready(self, timeout: float = 600.0) -> ServerProcess:
        """Wait for its line. Raises `ServerCrashed`, or TimeoutError after `timeout` seconds."""
        self._reader.join(timeout)
        if self._reader.is_alive():
            raise TimeoutError(f"{self.model} was not ready after {timeout:g} s")
        if not self._line:
            code = self._process.wait()
            reason = (self.log_tail.strip().splitlines() or ["no message"])[-1]
            raise ServerCrashed(f"the model process ended with code {code}: {reason}", self.log_tail)
        known = json.loads(self._line)
        self.token = Path(known["token_file"]).read_text().strip()
        self.url = known["url"]
        return self

    def restart(self, timeout: float = 600.0) -> ServerProcess:
        """Stop what is left of it and start again; the address and the token change."""
        self._end()
        self.url = self.token = ""
        self._process = self._launch()
        return self.wait_ready(timeout)

    def stop(self) -> None:
        """End the process; may be called more than once."""
        self._end()
        atexit.unregister(self.stop)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self) -> subprocess.Popen[str]:
        with self.log_path.open("w") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            )
        self._reader = threading.Thread(target=self._read_line, args=(process,), daemon=True)
        self._line = ""
        self._reader.start()
        return process

    def _read_line(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._line = process.stdout.readline()

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._reader.join(1)
            self._process.stdout.close()

"""Pictures are drawn in a process of their own, which has a time limit and can be killed.

Drawing holds the interpreter for as long as it takes: in the app's own process one large figure would freeze everybody
who looks. The process is started when the first picture is asked for and kept.
"""

from __future__ import annotations

import atexit
import json
import struct
import subprocess
import sys
import threading
from typing import Any

SECONDS = 60.0
"""For one picture."""
HEADER = struct.Struct("<?Q")
"""Whether it was drawn, and how many bytes follow: the picture, or the reason."""


class RenderError(RuntimeError):
    """The picture could not be drawn; the message says why."""


class Renderer:
    """The process, shared by all threads; one picture at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def draw(
        self, kind: str, spec: dict[str, Any] | str, *, seconds: float = SECONDS, **options: Any
    ) -> bytes:
        """A picture as bytes.

        Args:
            kind: png, svg, pdf (of a Vega-Lite specification), or svg_pdf (of an SVG).
            options: those of vl-convert's function.
        Raises:
            RenderError: it took too long, or the specification is wrong.
        """
        request = json.dumps({"kind": kind, "spec": spec, "options": options}, default=str).encode()
        with self._lock:
            process = self._started()
            late = threading.Timer(seconds, process.kill)
            late.start()
            try:
                good, data = self._ask(process, request)
            except (OSError, struct.error):
                self.stop()
                raise RenderError(
                    f"the picture was not drawn within {seconds:g} s; show less of it"
                ) from None
            finally:
                late.cancel()
        if not good:
            raise RenderError(data.decode(errors="replace"))
        return data

    def _ask(self, process: subprocess.Popen[bytes], request: bytes) -> tuple[bool, bytes]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(struct.pack("<Q", len(request)) + request)
        process.stdin.flush()
        good, size = HEADER.unpack(process.stdout.read(HEADER.size))
        data = process.stdout.read(size)
        if len(data) < size:
            raise OSError("the process ended")
        return good, data

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "moescope.app.render_worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        return self._process

    def stop(self) -> None:
        """End the process; the next picture starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None


renderer = Renderer()
atexit.register(renderer.stop)

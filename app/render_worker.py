"""The process that draws pictures: `python -m moescope.app.render_worker`, driven over pipes by `render_process`."""

from __future__ import annotations

import json
import struct
import sys
from typing import Any, BinaryIO

import vl_convert

from .render_process import HEADER

DRAW = {
    "png": vl_convert.vegalite_to_png,
    "svg": vl_convert.vegalite_to_svg,
    "pdf": vl_convert.vegalite_to_pdf,
}


def draw(kind: str, spec: Any, options: dict[str, Any]) -> bytes:
    """No figure may load anything: neither a file nor an address."""
    if kind == "svg_pdf":
        return vl_convert.svg_to_pdf(spec)
    made = DRAW[kind](spec, allowed_base_urls=[], **options)
    return made.encode() if isinstance(made, str) else made


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the pipe is closed."""
    while head := requests.read(8):
        request = json.loads(requests.read(struct.unpack("<Q", head)[0]))
        try:
            good, data = True, draw(request["kind"], request["spec"], request["options"])
        except (ValueError, TypeError, KeyError) as error:
            good, data = False, str(error)[:2000].encode()
        answers.write(HEADER.pack(good, len(data)) + data)
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)

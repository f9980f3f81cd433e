"""The scan running: the difference of two prompts' maps as their tokens pass, on the page, as GIF, as HTML.

A film is bytes: each cell of each frame is a place on the diverging scale, 0 to 254 with 127 for no difference
(255: no such expert). The scale ends at the largest difference of the last frame; early frames, which rest on
few tokens, go beyond it and are clamped.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import streamlit as st
from PIL import Image, ImageDraw, ImageFont
from streamlit.components.v2 import component

from ... import ASSETS
from ...figures.theme import LIGHT, Theme
from ...text.literal import visible

MIDDLE, MISSING = 127, 255
PAUSE_MS = 160
LAST_PAUSE_MS = 1_600
GIF_WIDTH = 880
_HEAD, _FOOT, _LEFT = 62, 30, 44


@dataclass(frozen=True, kw_only=True)
class Film:
    """F frames of L layers × E experts."""

    title: str
    layers: list[int]
    """From the model's input on."""
    cells_FLE: np.ndarray
    """uint8 places on the scale."""
    top: float
    """Difference at the ends of the scale."""
    captions: list[tuple[int, int, str, str]]
    """For each frame: tokens of A and of B that have passed, and the newest of each."""


def film(steps: pa.Table, title: str) -> Film:
    """The film of the view `prompt-scan`."""
    frames = np.asarray(steps["frame"]) - 1
    layers = sorted(set(steps["layer"].to_pylist()))
    row_of = {layer: row for row, layer in enumerate(layers)}
    values = steps["difference"].to_pylist()
    experts = max(map(len, values))
    difference_FLE = np.full((int(frames.max()) + 1, len(layers), experts), np.nan)
    captions: dict[int, tuple[int, int, str, str]] = {}
    about = steps.select(["layer", "tokens_a", "tokens_b", "token_a", "token_b"]).to_pylist()
    for frame, row, value in zip(frames.tolist(), about, values, strict=True):
        difference_FLE[frame, row_of[row["layer"]], : len(value)] = value
        newest = visible(row["token_a"]), visible(row["token_b"])
        captions[frame] = (row["tokens_a"], row["tokens_b"], *newest)
    top = float(np.nanmax(np.abs(difference_FLE[-1]))) or 1.0
    places = np.rint(MIDDLE + MIDDLE * np.clip(difference_FLE / top, -1, 1))
    cells = np.where(np.isnan(difference_FLE), MISSING, places).astype(np.uint8)
    in_order = [captions[frame] for frame in sorted(captions)]
    return Film(title=title, layers=layers, cells_FLE=cells, top=top, captions=in_order)


def colors(theme: Theme) -> np.ndarray:
    """(256, 3) uint8: the diverging scale, and the colour of what does not exist."""
    stops = np.array([[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in theme.diverging], float)
    at = np.linspace(0, len(stops) - 1, 2 * MIDDLE + 1)
    scale = np.stack([np.interp(at, np.arange(len(stops)), stops[:, channel]) for channel in range(3)], 1)
    missing = [int(theme.missing[i : i + 2], 16) for i in (1, 3, 5)]
    return np.rint(np.vstack([scale, missing])).astype(np.uint8)


def play(film: Film, *, theme: Theme, key: str) -> None:
    """Show the film with its play button and slider."""
    _component()(data=_payload(film, theme), key=key)


@st.cache_resource(show_spinner=False)
def _component():
    return component(
        "moescope.scan_player",
        css=(ASSETS / "scan_player.css").read_text(),
        js=(ASSETS / "scan_player.js").read_text(),
    )


def _payload(film: Film, theme: Theme) -> dict[str, Any]:
    data = {
        "title": film.title,
        "layers": film.layers,
        "experts": film.cells_FLE.shape[2],
        "cells": base64.b64encode(film.cells_FLE.tobytes()).decode(),
        "colors": base64.b64encode(colors(theme).tobytes()).decode(),
        "frames": film.captions,
        "low": f"−{film.top:.0%}: more in B",
        "high": f"+{film.top:.0%}: more in A",
        "pause": PAUSE_MS,
    }
    return data | {"version": hashlib.sha256(json.dumps(data).encode()).hexdigest()}


def to_html(film: Film) -> bytes:
    """The film as a page that needs nothing but itself."""
    data = json.dumps(_payload(film, LIGHT)).replace("<", "\\u003c").replace(">", "\\u003e")
    script = (ASSETS / "scan_player.js").read_text().partition("export default")[0]
    style = (ASSETS / "scan_player.css").read_text()
    title = html.escape(film.title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>body {{ margin: 24px; max-width: 1100px; font-family: sans-serif; color: #18222b }} {style}</style>
</head>
<body>
<h1 style="font-size: 1.1em">{title}</h1>
<div class="ms-film"></div>
<script>{script}
start(document.querySelector(".ms-film"), {data});</script>
</body>
</html>
""".encode()


def to_gif(film: Film) -> bytes:
    """The film as an animated GIF that runs for ever, with a rest at its end."""
    frames = [_picture(film, frame) for frame in range(len(film.captions))]
    pauses = [PAUSE_MS] * (len(frames) - 1) + [LAST_PAUSE_MS]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=pauses, loop=0, optimize=False
    )
    return buffer.getvalue()


def _picture(film: Film, frame: int) -> Image.Image:
    """One frame with its captions. The font knows Latin scripts; other tokens stand as their positions."""
    _, rows, experts = film.cells_FLE.shape
    wide = max(1, (GIF_WIDTH - _LEFT) // experts)
    high = int(min(max(420 // rows, 4), 24))
    size = (_LEFT + max(wide * experts, 420), _HEAD + high * rows + _FOOT)
    image = Image.new("P", size, MIDDLE)
    palette = colors(LIGHT).copy()
    ink = MISSING - 1
    palette[ink] = [int(LIGHT.text[i : i + 2], 16) for i in (1, 3, 5)]
    image.putpalette(palette.tobytes())
    cells = np.minimum(film.cells_FLE[frame], np.where(film.cells_FLE[frame] == MISSING, MISSING, ink - 1))
    pixels = np.kron(cells[::-1], np.ones((high, wide), np.uint8))
    image.paste(Image.fromarray(pixels.astype(np.uint8), "P"), (_LEFT, _HEAD))
    draw = ImageDraw.Draw(image)
    passed_a, passed_b, newest_a, newest_b = film.captions[frame]
    font = ImageFont.load_default(13)
    draw.text((8, 6), _latin(film.title, 100), fill=ink, font=font)
    draw.text((8, 24), f"A: token {passed_a}  {_latin(newest_a, 40)}", fill=ink, font=font)
    draw.text((8, 42), f"B: token {passed_b}  {_latin(newest_b, 40)}", fill=ink, font=font)
    every = 1 if rows <= 18 else 5 if rows <= 60 else 10
    for row, layer in enumerate(film.layers):
        if layer % every == 0:
            middle = _HEAD + high * (rows - row) - high / 2
            draw.text((_LEFT - 8, middle), str(layer), fill=ink, font=ImageFont.load_default(10), anchor="rm")
    foot = f"layers upwards, experts across; colours from -{film.top:.0%} (more in B) to +{film.top:.0%} (more in A)"
    draw.text((_LEFT, size[1] - _FOOT + 8), foot, fill=ink, font=ImageFont.load_default(11))
    return image


def _latin(text: str, length: int) -> str:
    """Text as far as the font can draw it."""
    short = text.replace("−", "-")[:length]
    return short if all(ord(sign) < 0x250 for sign in short) else ""

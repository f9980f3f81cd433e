"""The text of prompts with a stripe a token: a small component whose slider needs no round trip.

Tokens travel as JSON and become `textContent` in the browser, so whatever a prompt contains is shown as it is.
The same picture as a standalone page is made by `standalone`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st
from streamlit.components.v2 import component

from .. import ASSETS
from ..figures.palette import expert_color
from ..figures.theme import LIGHT, Theme
from ..figures.token_arrays import TokenArrays, shown_tokens
from ..text.graphemes import Run, lone_bytes, runs
from ..text.literal import direction, visible

COLORS = 36


@dataclass(frozen=True, kw_only=True)
class TokenText:
    """One prompt of the picture."""

    title: str
    language: str | None
    arrays: TokenArrays


def token_view(texts: list[TokenText], *, layer: int, stream: str, theme: Theme, key: str) -> tuple[int, str]:
    """Draw prompts beneath one another under one layer slider.

    Returns:
        The layer that the slider stands on, and the clicked `stream.layer.expert` of this run or "".
    """
    data: dict[str, Any] = {
        "prompts": [_payload(text) for text in texts],
        "layers": texts[0].arrays.layers,
        "stream": stream,
        "colors": [expert_color(expert, theme) for expert in range(COLORS)],
    }
    data["version"] = hashlib.sha256(json.dumps(data).encode()).hexdigest()
    data["layer"] = layer
    result = _component()(
        data=data,
        default={"layer": layer},
        key=key,
        on_layer_change=lambda: None,
        on_cell_change=lambda: None,
    )
    return int(result.layer if result.layer is not None else layer), result.cell or ""


@st.cache_resource(show_spinner=False)
def _component():
    return component(
        "moescope.tokens",
        css=(ASSETS / "tokens.css").read_text(),
        js=(ASSETS / "tokens.js").read_text(),
    )


def _payload(text: TokenText) -> dict[str, Any]:
    arrays = text.arrays
    return {
        "title": text.title,
        "dir": direction(text.language),
        "lang": text.language or "",
        "runs": [[_flowing(run.text), run.first, run.end, run.num_bytes] for run in _runs(arrays)],
        "shown": shown_tokens(arrays),
        "bytes": [lone_bytes(token) for token in arrays.tokens],
        "token_ids": arrays.token_ids,
        "positions": arrays.positions,
        "flags": arrays.flags,
        "width": arrays.ids_LTK.shape[2],
        "ids": _packed(arrays.ids_LTK),
        "weights": _packed(arrays.weights_LTK),
        "entropy": _packed(arrays.entropy_LT),
    }


def _runs(arrays: TokenArrays) -> list[Run]:
    return runs(arrays.tokens, apart=arrays.special)


def _flowing(token: str) -> str:
    """Token text that flows: spaces stay, a line break shows its sign and breaks the line."""
    return "\n".join(visible(line) + ("⏎" if more else "") for line, more in _lines(token)) or "∅"


def _lines(token: str) -> list[tuple[str, bool]]:
    lines = token.split("\n")
    return [(line, number < len(lines) - 1) for number, line in enumerate(lines)]


def _packed(array: np.ndarray | None) -> str | None:
    return None if array is None else base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def standalone(texts: list[TokenText], *, layer: int, title: str) -> bytes:
    """The picture at one layer as an HTML page of its own, without scripts."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for text in texts:
        number = text.arrays.layers.index(layer)
        first = text.arrays.ids_LTK[number, :, 0] if text.arrays.ids_LTK.shape[2] else []
        spans = "".join(
            _span(run, [int(expert) for expert in first[run.first : run.end]]) for run in _runs(text.arrays)
        )
        parts.append(f'<h2>{html.escape(text.title)}</h2><p dir="{direction(text.language)}">{spans}</p>')
    style = (
        "body{font-family:sans-serif;max-width:60em;margin:2em auto;line-height:2.1;color:#18222b}"
        "h1{font-size:1.1em}h2{font-size:.85em;font-weight:normal;opacity:.7}"
        "p{white-space:pre-wrap;overflow-wrap:anywhere}"
    )
    body = "".join(parts)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{style}</style></head><body>{body}</body></html>"
    ).encode()


def _span(run: Run, experts: list[int]) -> str:
    """The text of a run over a stripe with a piece a token, as wide as its share of the bytes."""
    name = ", ".join(f"expert {expert}" if expert >= 0 else "no expert" for expert in experts) or "no expert"
    stops, at, total = [], 0, sum(run.num_bytes) or 1
    for expert, size in zip(experts, run.num_bytes, strict=False):
        color = expert_color(expert, LIGHT) if expert >= 0 else "transparent"
        stops.append(f"{color} {at / total:.1%} {(at + size) / total:.1%}")
        at += size
    stops = stops * 2 if len(stops) == 1 else stops or ["transparent"] * 2
    style = (
        f"background:linear-gradient(to right,{','.join(stops)}) 0 100%/100% 3px no-repeat;padding-bottom:4px"
    )
    return f'<span title="{name}" style="{style}">{html.escape(_flowing(run.text))}</span>'

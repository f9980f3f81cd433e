"""Hatches: Vega fills areas with one colour, so each hatch is a grey of its own that the drawn SVG replaces."""

from __future__ import annotations

from collections.abc import Sequence

RESIDUES = ("none", "others", "unknown")
"""Names of categories that hold what is in no other; they stay pale."""
PALEST = "#f4f4f4"
PERIOD = 3.6
"""Points from line to line."""
_INK = "#222222"


def _lines(*paths: str, width: float = 0.8, ground: str = "#ffffff") -> str:
    drawn = "".join(
        f'<path d="{path}" stroke="{_INK}" stroke-width="{width}" fill="none"/>' for path in paths
    )
    return f'<rect width="{PERIOD}" height="{PERIOD}" fill="{ground}"/>{drawn}'


def _dots(ground: str, ink: str, radius: float) -> str:
    middle = PERIOD / 2
    return (
        f'<rect width="{PERIOD}" height="{PERIOD}" fill="{ground}"/>'
        f'<circle cx="{middle}" cy="{middle}" r="{radius}" fill="{ink}"/>'
    )


_UP = f"M-1 1 L1 -1 M0 {PERIOD} L{PERIOD} 0 M{PERIOD - 1} {PERIOD + 1} L{PERIOD + 1} {PERIOD - 1}"
_DOWN = f"M-1 {PERIOD - 1} L1 {PERIOD + 1} M0 0 L{PERIOD} {PERIOD} M{PERIOD - 1} -1 L{PERIOD + 1} 1"
_ACROSS, _ALONG = f"M0 {PERIOD / 2} H{PERIOD}", f"M{PERIOD / 2} 0 V{PERIOD}"
HATCHES: dict[str, str] = {
    "#a0a0a1": _lines(_UP),
    "#c8c8c9": _dots("#ffffff", _INK, 0.8),
    "#909091": _lines(_DOWN, ground="#d0d0d0"),
    "#b4b4b5": _lines(_ACROSS),
    "#606061": _lines(_UP, _DOWN, width=0.6),
    "#707071": _dots("#444444", "#ffffff", 0.9),
    "#acacad": _lines(_ALONG, ground="#e4e4e4"),
    "#989899": _lines(_ACROSS, _ALONG, width=0.5),
}
"""Grey that stands for it → the tile of the pattern."""
_PLAIN = ("#e2e2e2", "#4a4a4a", "#8c8c8c")
FILLS = (_PLAIN[0], "#a0a0a1", _PLAIN[1], "#c8c8c9", "#909091", _PLAIN[2], *list(HATCHES)[3:])
"""Fills that can be told apart, plain and hatched by turns."""


def fills(names: Sequence[object]) -> list[str]:
    """A fill for each category; plain greys where they suffice. They repeat after those of FILLS."""
    telling = [name for name in names if name not in RESIDUES]
    chosen = _PLAIN if len(telling) <= len(_PLAIN) else FILLS
    own = {name: chosen[at % len(chosen)] for at, name in enumerate(telling)}
    return [own.get(name, PALEST) for name in names]


def hatched(svg: str) -> str:
    """An SVG in which the greys that stand for hatches are hatches."""
    used = {grey: f"hatch{number}" for number, grey in enumerate(HATCHES) if f'"{grey}"' in svg}
    if not used:
        return svg
    for grey, name in used.items():
        svg = svg.replace(f'fill="{grey}"', f'fill="url(#{name})"')
        svg = svg.replace(f'stroke="{grey}"', f'stroke="{_INK}"')
    defined = "".join(_pattern(grey, name) for grey, name in used.items())
    at = svg.index(">", svg.index("<svg")) + 1
    return f"{svg[:at]}<defs>{defined}</defs>{svg[at:]}"


def _pattern(grey: str, name: str) -> str:
    size = f'width="{PERIOD}" height="{PERIOD}" patternUnits="userSpaceOnUse"'
    return f'<pattern id="{name}" {size}>{HATCHES[grey]}</pattern>'

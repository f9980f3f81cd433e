"""The colours of the screen and of the figures, light and dark.

Magnitude runs on one scale from the background to ink; a difference on one scale whose 0 is the
background; whatever a steering touched has one accent colour. `app/.streamlit/config.toml` holds the
same background, text and primary colour for Streamlit's own widgets; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FONT = "'Source Sans', 'Liberation Sans', Arial, 'DejaVu Sans', sans-serif"
"""The first is Streamlit's own; the others are what an export finds on the machine that renders it."""


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours that a figure needs, as CSS hex strings."""

    name: str
    background: str
    surface: str
    """Widgets and cards, a shade away from the background."""
    text: str
    muted: str
    """Axis labels and secondary text."""
    line: str
    """Hairlines: axis domains, card borders."""
    primary: str
    steered: str
    """Everything that a steering touched."""
    selected: str
    """The outline of a chosen cell."""
    missing: str
    """Cells whose value is unknown."""
    mark: str
    """Bars and lines that carry no category."""
    sequential: tuple[str, ...]
    """From background (0) to ink."""
    diverging: tuple[str, ...]
    """Negative, background (0), positive; an odd number of stops."""
    category_lightness: tuple[float, float, float]
    """OKLCH lightness of category colours: middle, first and second variation."""


LIGHT = Theme(
    name="light",
    background="#fcfcfa",
    surface="#f2f3ef",
    text="#18222b",
    muted="#5f6b75",
    line="#dfe1da",
    primary="#1c6a86",
    steered="#a8258f",
    selected="#d1600a",
    missing="#e9e6dd",
    mark="#7c94a3",
    sequential=("#fcfcfa", "#d3e3e8", "#8fbccb", "#4a8ba6", "#1f5876", "#0a2338"),
    diverging=("#0d4a80", "#5d9ac8", "#bcd6e6", "#fcfcfa", "#f0cfae", "#d68a48", "#8f4408"),
    category_lightness=(0.60, 0.45, 0.75),
)

DARK = Theme(
    name="dark",
    background="#14181c",
    surface="#1f252a",
    text="#e5e9ec",
    muted="#98a4ae",
    line="#30383f",
    primary="#6cb6d0",
    steered="#ef7fd8",
    selected="#ffab52",
    missing="#262a2d",
    mark="#6f8796",
    sequential=("#14181c", "#1d3a4a", "#2a6480", "#559bb8", "#a4d2e1", "#f4fbfd"),
    diverging=("#9fd0ff", "#4b8fca", "#22435f", "#14181c", "#563a22", "#c27f3e", "#ffcf9c"),
    category_lightness=(0.70, 0.57, 0.83),
)


def vega_config(theme: Theme) -> dict[str, Any]:
    """Vega-Lite `config` that makes a figure look like the page it stands on."""
    return {
        "background": theme.background,
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": theme.muted,
            "titleColor": theme.muted,
            "titleFontWeight": "normal",
            "titleFontSize": 12,
            "labelFontSize": 11,
            "domainColor": theme.line,
            "tickColor": theme.line,
            "gridColor": theme.line,
            "labelPadding": 4,
            "titlePadding": 8,
        },
        "legend": {
            "labelColor": theme.muted,
            "titleColor": theme.muted,
            "titleFontWeight": "normal",
            "titleFontSize": 12,
            "labelFontSize": 11,
        },
        "header": {"labelColor": theme.text, "titleColor": theme.muted, "labelFontSize": 12},
        "title": {
            "color": theme.text,
            "subtitleColor": theme.muted,
            "fontSize": 14,
            "fontWeight": 600,
            "subtitleFontSize": 12,
            "anchor": "start",
            "offset": 12,
        },
        "text": {"color": theme.text, "font": FONT},
        "rule": {"color": theme.muted},
    }

"""One set of colours: Streamlit's config, the figures and the palettes agree."""

import tomllib
from pathlib import Path

import pytest

import moescope.app.figures.theme as theme_module
from moescope.app.figures.palette import FAMILIES, expert_color, language_color, oklch
from moescope.app.figures.theme import DARK, LIGHT, Theme

CONFIG = tomllib.loads((Path(theme_module.__file__).parent.parent / ".streamlit" / "config.toml").read_text())


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_widgets_and_figures_have_the_same_colours(theme: Theme):
    section = CONFIG["theme"][theme.name]
    assert section["backgroundColor"] == theme.background
    assert section["secondaryBackgroundColor"] == theme.surface
    assert section["textColor"] == theme.text
    assert section["primaryColor"] == theme.primary
    assert section["borderColor"] == theme.line


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_can_be_read(theme: Theme):
    assert contrast(theme.text, theme.background) >= 7
    assert contrast(theme.muted, theme.background) >= 4.5


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_sequential_scale_only_moves_away_from_the_background(theme: Theme):
    away = [contrast(color, theme.background) for color in theme.sequential]
    assert away[0] == 1
    assert away == sorted(away)


def test_the_app_listens_on_this_machine_only_and_hides_tracebacks():
    assert CONFIG["server"]["address"] == "127.0.0.1"
    assert CONFIG["client"]["showErrorDetails"] == "none"
    assert CONFIG["browser"]["gatherUsageStats"] is False


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_experts_have_36_colours_that_can_be_seen(theme: Theme):
    colors = [expert_color(expert, theme) for expert in range(36)]
    assert len(set(colors)) == 36
    assert min(contrast(color, theme.background) for color in colors) >= 1.5
    assert expert_color(36, theme) == expert_color(0, theme)


def test_a_language_keeps_its_colour_whatever_the_tag():
    assert language_color("pt-BR", LIGHT) == language_color("pt", LIGHT) == language_color("PT", LIGHT)
    assert language_color(None, LIGHT) == LIGHT.muted


def test_the_common_languages_differ():
    common = [code for _, codes in FAMILIES.values() for code in codes[:3]]
    assert len({language_color(code, LIGHT) for code in common}) == len(common)


@pytest.mark.parametrize(
    ("lch", "color"),
    [((1, 0, 0), "#ffffff"), ((0, 0, 0), "#000000"), ((0.62796, 0.25768, 29.234), "#ff0000")],
)
def test_oklch_agrees_with_its_published_values(lch: tuple[float, float, float], color: str):
    assert oklch(*lch) == color

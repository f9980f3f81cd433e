"""Category colours: languages by family, experts by id; the same everywhere.

Both are built in OKLCH, where equal steps look equal, with little chroma: many categories without a
rainbow's false order.
"""

from __future__ import annotations

import math
import zlib

from .theme import Theme

FAMILIES: dict[str, tuple[float, tuple[str, ...]]] = {
    "Germanic": (250, ("en", "de", "nl", "sv", "da", "no", "nb", "nn", "is", "af")),
    "Romance": (65, ("fr", "es", "it", "pt", "ro", "ca", "gl", "la")),
    "Slavic": (305, ("ru", "uk", "pl", "cs", "bg", "sr", "hr", "sk", "sl", "be", "mk")),
    "Greek": (215, ("el", "hy", "ka", "sq")),
    "Turkic": (190, ("tr", "az", "kk", "uz", "ky", "tk")),
    "Uralic and Baltic": (280, ("fi", "hu", "et", "lt", "lv", "eu")),
    "Sinitic and neighbours": (25, ("zh", "yue", "vi", "th", "lo", "km", "my", "bo")),
    "Japanese and Korean": (350, ("ja", "ko", "mn")),
    "Semitic": (140, ("ar", "he", "am", "mt", "fa", "ur", "ps")),
    "Indic and Dravidian": (105, ("hi", "bn", "ta", "te", "mr", "gu", "kn", "ml", "pa", "ne", "si")),
    "Austronesian and African": (165, ("id", "ms", "tl", "jv", "sw", "yo", "ha", "zu", "ig", "so")),
}
"""Family → (hue in degrees, languages by BCP 47 primary subtag)."""

_HOME = {
    language: (hue, rank) for hue, languages in FAMILIES.values() for rank, language in enumerate(languages)
}
_FAMILY = {language: family for family, (_, languages) in FAMILIES.items() for language in languages}
_HUES = 12
_HUE_STEP = 5  # coprime to _HUES: neighbouring expert ids get hues far apart


def language_color(language: str | None, theme: Theme) -> str:
    """Fixed colour of a language: hue by family, lightness by its place in the family."""
    if not language:
        return theme.muted
    subtag = _subtag(language)
    hue, rank = _HOME.get(subtag, (float(zlib.crc32(subtag.encode()) % 360), 0))
    lightness = theme.category_lightness[rank % 3]
    chroma = 0.115 if rank < 6 else 0.07
    return oklch(lightness, chroma, hue + (rank // 3) * 11)


def family_of(language: str) -> str:
    """Family of a language by its code; `others` for one that has no place among FAMILIES."""
    return _FAMILY.get(_subtag(language), "others")


def _subtag(language: str) -> str:
    return language.split("-")[0].split("_")[0].lower()


def expert_color(expert: int, theme: Theme) -> str:
    """Fixed colour of an expert id: 36 distinct ones, then they repeat."""
    hue = (expert * _HUE_STEP % _HUES) * 360 / _HUES + 15
    return oklch(theme.category_lightness[expert // _HUES % 3], 0.105, hue)


def oklch(lightness: float, chroma: float, hue: float) -> str:
    """Hex sRGB of an OKLCH colour; chroma shrinks until the colour exists.

    Source: Björn Ottosson, "A perceptual color space for image processing", 2020.
    """
    a, b = math.cos(math.radians(hue)), math.sin(math.radians(hue))
    for step in range(20):
        rgb = _oklab_to_linear(lightness, a * chroma * (1 - step / 20), b * chroma * (1 - step / 20))
        if all(-1e-4 <= channel <= 1 + 1e-4 for channel in rgb):
            break
    else:
        rgb = (lightness**3,) * 3
    return "#" + "".join(f"{round(255 * _gamma(channel)):02x}" for channel in rgb)


def _oklab_to_linear(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )


def _gamma(channel: float) -> float:
    channel = min(max(channel, 0.0), 1.0)
    return 12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055

"""Pictures that prompts carry: the tags `grid` (patch rows × columns, as `4x4`) and `picture` (a PNG as a data URI)."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping

import numpy as np
from PIL import Image, UnidentifiedImageError

GRID, PICTURE = "grid", "picture"
PREFIX = "data:image/png;base64,"
MOST_CHARACTERS, MOST_PIXELS, LARGEST_SIDE = 4_000_000, 4_000_000, 64


def grid_of(tags: Mapping[str, str]) -> tuple[int, int] | None:
    """Rows and columns of patches; None where there is no such tag."""
    found = re.fullmatch(r"([1-9]\d{0,2})\s*[x×]\s*([1-9]\d{0,2})", tags.get(GRID, ""))
    return (int(found[1]), int(found[2])) if found else None


def pixels_of(tags: Mapping[str, str]) -> list[list[str]] | None:
    """The picture's colours (`#rrggbb`) row by row, made smaller where a side has more than LARGEST_SIDE; None where
    the tag is missing, no PNG, or too large. Nothing of the file but these reaches a browser."""
    text = tags.get(PICTURE, "")
    if not text.startswith(PREFIX) or len(text) > MOST_CHARACTERS:
        return None
    try:
        data = io.BytesIO(base64.b64decode(text.removeprefix(PREFIX), validate=True))
        with Image.open(data, formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            plain = image.convert("RGB")
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None
    plain.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return [[f"#{r:02x}{g:02x}{b:02x}" for r, g, b in row] for row in np.asarray(plain).tolist()]

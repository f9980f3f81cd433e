"""Pictures that prompts carry: the tags `grid` (patch rows × columns, as `4x4`) and `picture` (a PNG as a data URI)."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping

from PIL import Image, UnidentifiedImageError

GRID, PICTURE = "grid", "picture"
PREFIX = "data:image/png;base64,"
MOST_CHARACTERS, MOST_PIXELS, LARGEST_SIDE = 4_000_000, 4_000_000, 512


def grid_of(tags: Mapping[str, str]) -> tuple[int, int] | None:
    """Rows and columns of patches; None where there is no such tag."""
    found = re.fullmatch(r"([1-9]\d{0,2})\s*[x×]\s*([1-9]\d{0,2})", tags.get(GRID, ""))
    return (int(found[1]), int(found[2])) if found else None


def picture_of(tags: Mapping[str, str]) -> str | None:
    """The picture, decoded and encoded anew, so that nothing but its pixels reaches a browser; None where the tag is
    missing, no PNG, or too large."""
    text = tags.get(PICTURE, "")
    if not text.startswith(PREFIX) or len(text) > MOST_CHARACTERS:
        return None
    try:
        with Image.open(
            io.BytesIO(base64.b64decode(text.removeprefix(PREFIX), validate=True)), formats=["PNG"]
        ) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            plain = image.convert("RGB")
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None
    plain.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = io.BytesIO()
    plain.save(file, "PNG")
    return PREFIX + base64.b64encode(file.getvalue()).decode()

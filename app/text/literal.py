"""Text from elsewhere where it may stand: literal on a page, and as a file's name."""

from __future__ import annotations

import html
import re
import unicodedata
from pathlib import Path

from .graphemes import lone_bytes, trimmed, whole
from .languages import is_right_to_left

_CONTROL = {chr(c): chr(0x2400 + c) for c in range(0x20)} | {"\x7f": "␡"}
_DIRECTION = {chr(c): f"‹{c:04X}›" for c in (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_MARKS = {"\n": "⏎", "\t": "⇥", "\u200b": "‹200B›", "\ufeff": "‹FEFF›"}
_CONTROL |= {
    chr(c): f"‹{c:04X}›" for c in range(0x80, 0xA0)
}  # terminals take U+009B for the begin of a command
_VISIBLE = str.maketrans(_CONTROL | _DIRECTION | _MARKS)


def visible(text: str | None) -> str:
    """Text with line breaks, controls and direction marks made visible; `∅` for none."""
    return "∅" if text is None else text.translate(_VISIBLE)


def visible_token(text: str | None) -> str:
    """`visible` for a token on its own: one of spaces alone would look like an empty cell."""
    shown = visible(text)
    return shown if shown.strip() else "␣" * len(shown)


def isolated(text: str) -> str:
    """Text that stays one piece in a cell: right-to-left letters would else turn the number beside them around."""
    return f"\u2068{text}\u2069" if _has_right_to_left(text) else text


def left_to_right(text: str) -> str:
    """A cell's text from left to right, also where it begins with right-to-left letters."""
    return f"\u200e{text}" if _has_right_to_left(text) else text


def _has_right_to_left(text: str) -> bool:
    return any(unicodedata.bidirectional(one) in ("R", "AL") for one in text)


def direction(language: str | None) -> str:
    """Value of an HTML `dir` attribute: `rtl` for languages written so, else left to the text itself."""
    return "rtl" if is_right_to_left(language) else "auto"


def cut(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis where it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def excerpt(text: str, length: int = 70) -> str:
    """The beginning of a text on one visible line."""
    line = visible(" ".join(text.split()))
    return cut(line, length)


def context_html(row: dict) -> str:
    """One row of the `expert-contexts` view as escaped HTML: the characters that the token is of marked in their text,
    and its bytes where it is a part of them."""
    left, right = trimmed(row["before"], row["after"])
    before, token, after = (html.escape(visible(part)) for part in whole(left, row["token"], right))
    split = f" bytes {found} of it" if (found := lone_bytes(row["token"] or "")) else ""
    weight = "" if row["weight"] is None else f"{row['weight']:.2f} "
    source = html.escape(f"{weight}{row['language'] or ''} {row['prompt_id']}{split}")
    return (
        f'<p class="ms-context" dir="{direction(row["language"])}">'
        f"<bdi>{before}<mark>{token}</mark>{after}</bdi>"
        f'<small dir="ltr">{source}</small></p>'
    )


def safe_name(name: str) -> str:
    """A file name out of whatever was typed: letters, digits, dots, dashes; never a path or a hidden file."""
    plain = re.sub(r"[^\w.-]+", "-", Path(name.replace("\\", "/")).name, flags=re.UNICODE).strip("-.")
    return plain[:80] or "trace"


def without_folders(path: str) -> str:
    """A model's or file's name without the folders of the machine that it lies on; hub names stay whole."""
    local = path.startswith(("/", "~", ".")) or "\\" in path or re.match(r"^[A-Za-z]:", path)
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] if local else path

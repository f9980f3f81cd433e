"""The writing system of a text, from the Unicode names of its letters."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable

_NAMES = {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana", "HANGUL": "Hangul"}
_KANA_AT_LEAST = 0.1
_ENOUGH = 20_000


def script_of(texts: Iterable[str]) -> str | None:
    """The script of most letters: `Latin`, `Cyrillic`, `Han`, ...; `Japanese` for kana with or without Han;
    None where there are no letters. Looks at the first 20,000 letters."""
    counts: Counter[str] = Counter()
    for text in texts:
        for sign, times in Counter(sign for sign in text if sign.isalpha()).items():
            word = unicodedata.name(sign, "").partition(" ")[0]
            counts[_NAMES.get(word, word.capitalize())] += times
        if counts.total() >= _ENOUGH:
            break
    counts.pop("", None)
    if not counts:
        return None
    if counts["Kana"] >= _KANA_AT_LEAST * counts.total():
        return "Japanese"
    return counts.most_common(1)[0][0]

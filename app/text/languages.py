"""What languages are called and which way they are written, by Unicode's CLDR (Babel)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal, NamedTuple

RIGHT_TO_LEFT = frozenset(
    ["Adlm", "Arab", "Aran", "Hebr", "Mand", "Mend", "Nkoo", "Rohg", "Samr", "Syrc", "Thaa"]
)
"""Scripts that are written from right to left (Unicode's bidirectional class of their letters)."""


class Parts(NamedTuple):
    """A language tag taken apart; BCP 47 (`pt-BR`, `zh-Hant`) and FLORES (`eng_Latn`) codes alike."""

    language: str
    """As CLDR knows it: `en` also for `eng`."""
    script: str | None
    rest: tuple[str, ...]
    """Territory and whatever else the tag says, as written."""


def _cldr(table: Literal["language_aliases", "likely_subtags"]) -> Mapping[str, str]:
    """A table of CLDR; Babel is imported where one is needed, which in the terminal is seldom."""
    from babel.core import get_global

    return get_global(table)


def parts_of(code: str) -> Parts:
    """The parts of a language tag."""
    head, *tail = code.replace("_", "-").split("-")
    script = tail.pop(0).title() if tail and len(tail[0]) == 4 and tail[0].isalpha() else None
    language = head.lower()
    # CLDR knows three-letter codes of languages with a two-letter one as their aliases.
    alias = _cldr("language_aliases").get(language, language)
    return Parts(alias if len(alias) < 4 else language, script, tuple(tail))


@cache
def language_name(code: str | None) -> str:
    """English name of a language tag, with what it says beside the language; the tag itself where CLDR has no name."""
    if not code:
        return "no language"
    from babel import Locale

    english, (language, script, rest) = Locale("en"), parts_of(code)
    name = english.languages.get(language)
    if name is None:
        return code
    beside = [] if script is None else [english.scripts.get(script, script)]
    beside += [english.territories.get(part.upper(), part) for part in rest]
    return f"{name} ({', '.join(beside)})" if beside else name


@cache
def is_right_to_left(code: str | None) -> bool:
    """Whether a language is written from right to left: in the tag's script, else in its likeliest."""
    if not code:
        return False
    language, script, rest = parts_of(code)
    if script is None:
        likely = _cldr("likely_subtags")
        where = f"{language}_{rest[0].upper()}" if rest else language
        whole = likely.get(where) or likely.get(language, "")
        script = next((part for part in whole.split("_") if len(part) == 4), None)
    return script in RIGHT_TO_LEFT

"""Response classes: which kind of answer a text is, by regular expressions that the user writes.

Patterns are only ever run where they were written (the app, a notebook), never on a served model: a pattern
can take for ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

OTHER = "other"

REFUSAL: dict[str, list[str]] = {
    "refusal": [
        r"\bI(?:['’]m| am) (?:very |so )?sorry\b",
        r"\bI (?:can(?:no|['’])t|am (?:not able|unable) to|won['’]t|will not) (?:help|assist|provide|answer)",
        r"\bas an AI\b",
    ]
}
"""A start for refusals in English; anything else needs patterns of its own."""


def classify(text: str, classes: Mapping[str, Sequence[str]]) -> str:
    """The first class of which a pattern is found in the text, else "other".

    Args:
        classes: name → regular expressions, upper and lower case alike.
    Raises:
        ValueError: a pattern that is not a regular expression.
    """
    for name, patterns in classes.items():
        for pattern in patterns:
            try:
                found = re.search(pattern, text, re.IGNORECASE | re.MULTILINE)
            except re.error as error:
                raise ValueError(
                    f"class {name!r}: {pattern!r} is not a regular expression: {error}"
                ) from None
            if found:
                return name
    return OTHER

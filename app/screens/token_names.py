"""What a table calls its tokens: their text, or the characters that a token of single bytes is most often a part of."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from ..shell.page_context import PageContext
from ..text.graphemes import lone_bytes, part_of
from ..text.literal import visible, visible_token

MOST = 3
"""Characters that stand for a token of single bytes."""
EXPLAINED = (
    " A token that is a part of characters stands as those it is most often a part of, its bytes in brackets."
)


def named(context: PageContext, table: pa.Table) -> list[str]:
    """A name for each row of a table with columns token_id and token."""
    texts, ids = table["token"].to_pylist(), table["token_id"].to_pylist()
    parts = {one: text for one, text in zip(ids, texts, strict=True) if lone_bytes(text or "")}
    of = _characters(context, parts) if parts else {}
    return [of.get(one) or visible_token(text) for one, text in zip(ids, texts, strict=True)]


def explained(table: pa.Table) -> str:
    """The sentence that a table of tokens needs where one of them holds bytes that are no whole character."""
    return EXPLAINED if any(lone_bytes(text or "") for text in table["token"].to_pylist()) else ""


def _characters(context: PageContext, parts: dict[int, str]) -> dict[int, str]:
    """Token id → the characters that hold its bytes, most frequent first, and the bytes."""
    found: dict[int, Counter[str]] = {}
    places = context.view("token-contexts", token_ids=sorted(parts))
    for row in places.to_pylist():
        character = part_of(row["before"], row["token"], row["after"]).strip()
        if character and not lone_bytes(character):
            found.setdefault(row["token_id"], Counter())[visible(character)] += 1
    return {
        one: f"{' '.join(text for text, _ in counted.most_common(MOST))} ({lone_bytes(parts[one])})"
        for one, counted in found.items()
    }

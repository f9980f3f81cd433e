"""From tokens to characters: what byte-level vocabularies split, a reader sees whole.

Traces hold bytes that are no whole character as ⟨E8⟩⟨AA⟩ (`tracer/tokens/token_text.py`). Here they become bytes again:

1. the bytes of all tokens are laid end to end and decoded; a byte that belongs to nothing stays ⟨E8⟩;
2. Unicode's extended grapheme clusters (UAX 29, `\\X` of the package regex) say which code points are one character;
3. `runs` cuts the text where a token and a character end together: the shortest stretches that are whole in both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

_LONE = re.compile("((?:⟨[89A-F][0-9A-F]⟩)+)")
_PIECE = re.compile("⟨[89A-F][0-9A-F]⟩|.", re.DOTALL)
_HALF_FIRST = re.compile("^(?:⟨[89AB][0-9A-F]⟩)+")  # bytes that go on with a character
_HALF_LAST = re.compile("(?:⟨[C-F][0-9A-F]⟩)(?:⟨[89AB][0-9A-F]⟩)*$")


class Run(NamedTuple):
    """Tokens `first` to `end` (exclusive), which together are whole characters."""

    text: str
    first: int
    end: int
    num_bytes: list[int]
    """UTF-8 bytes of each of its tokens."""


def runs(tokens: Sequence[str], *, apart: Sequence[bool] | None = None) -> list[Run]:
    """Tokens in the shortest runs of whole characters.

    Args:
        tokens: texts of consecutive tokens as a trace holds them.
        apart: tokens that take part in no character of others, such as special ones.
    """
    found: list[Run] = []
    start = 0
    alone = list(apart) if apart is not None else [False] * len(tokens)
    for index, token in enumerate(tokens):
        if alone[index]:
            found += _runs(tokens, start, index)
            found.append(Run(token, index, index + 1, [len(_bytes(token))]))
            start = index + 1
    return found + _runs(tokens, start, len(tokens))


def joined(tokens: Sequence[str]) -> str:
    """The text of tokens end to end."""
    return "".join(run.text for run in runs(tokens))


def characters(tokens: Sequence[str], *, apart: Sequence[bool] | None = None) -> list[str]:
    """For each token the whole characters that its bytes belong to: three tokens of 語 are 語, 語, 語."""
    names = list(tokens)
    for run in runs(tokens, apart=apart):
        if run.end - run.first == 1:
            names[run.first] = run.text
            continue
        clusters = _clusters(_text(b"".join(map(_bytes, tokens[run.first : run.end]))))
        ends = list(accumulate(map(_length, clusters)))
        for index, (low, high) in enumerate(_spans(run.num_bytes), run.first):
            touched = zip(clusters, [0, *ends], ends, strict=False)
            names[index] = _shown("".join(text for text, a, b in touched if a < high and b > low))
    return names


def whole(before: str, token: str | None, after: str) -> tuple[str, str, str]:
    """A token and the text around it, cut where characters end: what the token is of stands in the middle."""
    pieces = [*_PIECE.findall(before), token or "∅", *_PIECE.findall(after)]
    at = len(_PIECE.findall(before))
    found = runs(pieces)
    middle = next(run for run in found if run.first <= at < run.end)
    left = "".join(run.text for run in found if run.end <= middle.first)
    return left, middle.text, "".join(run.text for run in found if run.first >= middle.end)


def part_of(before: str, token: str, after: str) -> str:
    """The whole characters that a token's bytes belong to in its text; what is cut off there stays as bytes."""
    left, right = _PIECE.findall(before), _PIECE.findall(after)
    return characters([*left, token, *right])[len(left)]


def trimmed(before: str, after: str) -> tuple[str, str]:
    """The text around a token without the halves of characters at its outer ends, where it was cut."""
    return _HALF_FIRST.sub("", before), _HALF_LAST.sub("", after)


def lone_bytes(token: str) -> str:
    """The bytes of a token that are no whole character in it: `E8 AA`; empty where there are none."""
    return " ".join(byte for found in _LONE.findall(token) for byte in re.findall("[0-9A-F]{2}", found))


def _runs(tokens: Sequence[str], start: int, end: int) -> list[Run]:
    if start == end:
        return []
    if not any("⟨" in token or not token.isascii() for token in tokens[start:end]):  # each is whole
        return [Run(tokens[i], i, i + 1, [len(tokens[i])]) for i in range(start, end)]
    pieces = [_bytes(token) for token in tokens[start:end]]
    data = b"".join(pieces)
    ends = set(accumulate(map(_length, _clusters(_text(data))), initial=0))
    found, at, first, low = [], 0, start, 0
    for index, piece in enumerate(pieces, start):
        at += len(piece)
        if at in ends:
            sizes = [len(one) for one in pieces[first - start : index - start + 1]]
            found.append(Run(_shown(_text(data[low:at])), first, index + 1, sizes))
            first, low = index + 1, at
    return found


def _spans(sizes: Sequence[int]) -> list[tuple[int, int]]:
    ends = list(accumulate(sizes))
    return list(zip([0, *ends], ends, strict=False))


def _bytes(token: str) -> bytes:
    parts = _LONE.split(token)
    return b"".join(
        bytes.fromhex(part.replace("⟨", "").replace("⟩", ""))
        if number % 2
        else part.encode("utf-8", "replace")
        for number, part in enumerate(parts)
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _clusters(text: str) -> list[str]:
    import regex  # takes longer to import than most commands of the terminal need

    return regex.findall(r"\X", text)


def _length(cluster: str) -> int:
    return len(cluster.encode("utf-8", "surrogateescape"))


def _shown(text: str) -> str:
    return "".join(f"⟨{ord(c) - 0xDC00:02X}⟩" if "\udc80" <= c <= "\udcff" else c for c in text)

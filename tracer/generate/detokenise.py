"""Tokens to text as they come: a character that is spread over several tokens appears with its last one."""

from __future__ import annotations

from collections.abc import Callable

UNFINISHED = "�"


class TextStream:
    """The text of a growing list of tokens; what `add` and `end` return, joined, is the decoded whole.

    Decoding starts a little before the new token, because tokenizers write a token differently at the start
    of a text than within one.

    Args:
        decode: token ids to text, special tokens left out.
        prompt_ids: what stands before.
    """

    def __init__(self, decode: Callable[[list[int]], str], prompt_ids: list[int]) -> None:
        self._decode = decode
        self._ids = list(prompt_ids[-6:])
        self._start = 0
        self._read = len(self._ids)

    def add(self, token_id: int) -> str:
        """What this token adds to the text; empty while a character is unfinished."""
        self._ids.append(token_id)
        whole = self._decode(self._ids[self._start :])
        if whole.endswith(UNFINISHED):
            return ""
        return self._take(whole)

    def end(self) -> str:
        """What is left of an unfinished character."""
        return self._take(self._decode(self._ids[self._start :]))

    def _take(self, whole: str) -> str:
        known = self._decode(self._ids[self._start : self._read])
        self._start, self._read = self._read, len(self._ids)
        return whole[len(known) :]

"""The text of single tokens, as a person can read it.

A token's text is a function of its id alone, read from the vocabulary, so the texts of a prompt's tokens end
to end give the text that the model read. Bytes that are no whole character on their own, as when byte-level
BPE splits 「語」, stand as ⟨E8⟩⟨AA⟩⟨9E⟩. Nothing else is changed: spaces and control characters stay what they
are.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LONE_BYTE = re.compile("⟨[0-9A-F]{2}⟩")


class TokenTexts:
    """Texts by token id, for one tokenizer; made once, then looked up without a loop."""

    def __init__(self, tokenizer: Any) -> None:
        self._read = _reader(tokenizer)
        # A copy, because the writer's thread asks while the tokenizer is at work in another one.
        self._tokens = {id: token for token, id in tokenizer.get_vocab().items()}
        self._added = {
            int(id): str(token) for id, token in getattr(tokenizer, "added_tokens_decoder", {}).items()
        }
        self._known: dict[int, str] = {}

    def of(self, token_ids: np.ndarray) -> pa.StringArray:
        """Texts of token ids (T,)."""
        found = pa.array(token_ids).dictionary_encode()
        texts = pa.array([self.text(id) for id in found.dictionary.to_pylist()], pa.string())
        return texts.take(found.indices)

    def text(self, token_id: int) -> str:
        """Text of one token."""
        text = self._known.get(token_id)
        if text is None:
            text = self._known[token_id] = self._look_up(token_id)
        return text

    def num_bytes(self, token_id: int) -> int:
        """UTF-8 bytes of one token, also where it holds a part of a character."""
        return len(_LONE_BYTE.sub("?", self.text(token_id)).encode())

    def _look_up(self, token_id: int) -> str:
        if token_id in self._added:
            return clean(self._added[token_id])
        token = self._tokens.get(token_id)
        if token is None:
            return f"⟨token {token_id}⟩"
        return readable(token) if isinstance(token, bytes) else self._read(clean(str(token)))


def readable(data: bytes) -> str:
    """UTF-8 as text; every byte that belongs to no whole character as ⟨E2⟩."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogateescape").translate(_ESCAPED)


def clean(text: str) -> str:
    """The text without lone surrogates, which no file could hold."""
    return text.encode("utf-8", "replace").decode()


_ESCAPED = {0xDC00 + byte: f"⟨{byte:02X}⟩" for byte in range(0x80, 0x100)}


def _reader(tokenizer: Any) -> Any:
    """From a vocabulary entry to its text, by the way in which this tokenizer spells spaces and bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Their states alone: the whole tokenizer as JSON is long, with all its merges.
    parts = [] if backend is None else [backend.decoder, backend.pre_tokenizer]
    spelling = _parts([json.loads(part.__getstate__()) for part in parts if part is not None])
    return _from_byte_level if "ByteLevel" in spelling else _from_pieces


def _parts(todo: list[Any]) -> set[str]:
    """Names of these decoders and pre-tokenizers, those inside sequences too."""
    found: set[str] = set()
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            found.add(part.get("type", ""))
            todo += [*part.get("decoders", []), *part.get("pretokenizers", [])]
    return found


def _from_byte_level(token: str) -> str:
    try:
        return readable(token.translate(_byte_of_character()).encode("latin-1"))
    except UnicodeEncodeError:
        return token


def _from_pieces(token: str) -> str:
    """SentencePiece spells a space ▁ and a single byte <0xE2>."""
    byte = _BYTE.fullmatch(token)
    return readable(bytes([int(byte[1], 16)])) if byte else token.replace("▁", " ")


@cache
def _byte_of_character() -> dict[int, int]:
    """The alphabet of byte-level BPE as a translation: printable bytes stand for themselves, the others from U+0100
    upwards. What is no letter of it becomes something that is no byte."""
    own = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    letters = {byte: byte for byte in own} | {0x100 + i: byte for i, byte in enumerate(others)}
    return dict.fromkeys(others, 0xFFFF) | letters

"""Prompts → token ids, with two marks on each token: special (not the user's text) and completion.

Special are the tokens that the tokenizer adds, special tokens written out in a text, and with a chat template
everything that comes from the template. Completion are the tokens that hold a character of the completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ...store.amount import amount
from ..errors import TracerError
from ..prompts.prompt import Prompt
from .chat import render

Span = tuple[int, int]


class EncodingError(TracerError):
    """A prompt that cannot be turned into tokens; the message names it."""


@dataclass(frozen=True)
class Encoded:
    """One token sequence."""

    ids: np.ndarray
    """(T,) int32."""
    special: np.ndarray
    """(T,) bool."""
    completion: np.ndarray
    """(T,) bool."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def prompt_length(self) -> int:
        """Tokens before the completion (all, where there is none): what rules for the prompt's span act on."""
        return int(np.argmax(self.completion)) if self.completion.any() else len(self)


@dataclass(frozen=True)
class _Source:
    """The characters to be tokenised, before tokens know where they come from."""

    text: str
    completion_from: int
    own: tuple[Span, ...] | None
    """Where the user's own words stand; None: everywhere."""

    @property
    def completes(self) -> bool:
        return self.completion_from < len(self.text)


class Encoder:
    """Tokenises prompts, plain or through the tokenizer's chat template.

    Args:
        max_length: longest sequence that the model takes; None for no limit.
    """

    def __init__(self, tokenizer: Any, *, chat: bool = False, max_length: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._chat = chat
        self._max_length = max_length
        self._special_ids = np.asarray(sorted(set(tokenizer.all_special_ids or ())), np.int64)
        self._offsets = bool(getattr(tokenizer, "is_fast", False))

    @property
    def special_ids(self) -> np.ndarray:
        """Ids that are special wherever they stand, (N,) int64."""
        return self._special_ids

    def prompts(self, prompts: Sequence[Prompt]) -> list[Encoded]:
        """The sequences that are traced: text and completion.

        Raises:
            EncodingError: a prompt gives no token, is longer than the model takes, or does not fit the
                template.
        """
        sources = [self._source(prompt, prompt.completion or "") for prompt in prompts]
        encoded = self._encode(sources)
        for prompt, sequence in zip(prompts, encoded, strict=True):
            if len(sequence) == 0:
                raise EncodingError(f"prompt {prompt.id!r} gives no token")
            if self._max_length is not None and len(sequence) > self._max_length:
                raise EncodingError(
                    f"prompt {prompt.id!r} has {amount(len(sequence), 'token')}, the model takes at most "
                    f"{self._max_length}"
                )
        return encoded

    def choices(self, prompt: Prompt) -> list[Encoded]:
        """One sequence for each choice, with the choice marked as completion."""
        return self._encode([self._source(prompt, choice) for choice in prompt.choices or ()])

    def _source(self, prompt: Prompt, completion: str) -> _Source:
        if not self._chat:
            if prompt.messages:
                raise EncodingError(
                    f"prompt {prompt.id!r} is a chat: trace it with the chat template (--chat)"
                )
            return _Source(prompt.text + completion, len(prompt.text), None)
        try:
            text, own = render(self._tokenizer, prompt.chat)
        except ValueError as error:
            raise EncodingError(f"prompt {prompt.id!r}: {error}") from None
        return _Source(text + completion, len(text), (*own, (len(text), len(text) + len(completion))))

    def _encode(self, sources: list[_Source]) -> list[Encoded]:
        if not sources:
            return []
        if not self._offsets:
            return [self._encode_slowly(source) for source in sources]
        whole = all(source.own is None and not source.completes for source in sources)
        batch = self._tokenizer(
            [source.text for source in sources],
            add_special_tokens=not self._chat,  # a template writes its own
            return_offsets_mapping=not whole,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        edges = np.cumsum([len(ids) for ids in batch["input_ids"]])[:-1]
        ids_N = np.fromiter(chain.from_iterable(batch["input_ids"]), np.int32)
        added_N = np.fromiter(chain.from_iterable(batch["special_tokens_mask"]), bool)
        special_N = added_N | np.isin(ids_N, self._special_ids)
        parts = zip(*(np.split(values, edges) for values in (ids_N, special_N)), strict=True)
        encoded = [Encoded(ids_T, special_T, np.zeros(len(ids_T), bool)) for ids_T, special_T in parts]
        if whole:
            return encoded
        rows = zip(sources, encoded, batch["offset_mapping"], np.split(added_N, edges), strict=True)
        return [_with_spans(*row) for row in rows]

    def _encode_slowly(self, source: _Source) -> Encoded:
        """Without offsets: tokens up to where the sequences with and without completion part are the
        text's."""
        if self._chat:
            raise EncodingError(
                "this tokenizer does not say which characters its tokens stand for, so template and text "
                "can't be told apart: trace without the chat template"
            )
        ids_T = np.asarray(self._tokenizer(source.text, verbose=False)["input_ids"], np.int32)
        special_T = np.isin(ids_T, self._special_ids)
        completion_T = np.zeros(len(ids_T), bool)
        if source.completes:
            alone = self._tokenizer(source.text[: source.completion_from], verbose=False)["input_ids"]
            shared = min(len(alone), len(ids_T))
            same = np.asarray(alone[:shared]) == ids_T[:shared]
            first = shared if same.all() else int(np.argmin(same))
            trailing = len(ids_T) - len(np.trim_zeros(~special_T, "b"))
            completion_T[first : len(ids_T) - trailing] = True
        return Encoded(ids_T, special_T, completion_T)


def _with_spans(source: _Source, encoded: Encoded, offsets: list[Span], added_T: np.ndarray) -> Encoded:
    """Marks what comes from the template, and what from the completion, by the characters of each token."""
    start_T, end_T = np.asarray(offsets, np.int64).reshape(-1, 2).T
    special_T = encoded.special
    if source.own is not None:
        special_T = special_T | ~_touches(start_T, end_T, source.own)
    return Encoded(encoded.ids, special_T, (end_T > source.completion_from) & ~added_T)


def _touches(start_T: np.ndarray, end_T: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """Whether each token holds a character of one of the spans."""
    found = np.zeros(len(start_T), bool)
    for start, end in spans:
        found |= (start_T < end) & (end_T > start)
    return found

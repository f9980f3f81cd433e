"""Which sequences a prompt set is scored by, and what adds up over them.

A prompt without choices is one sequence: its completion is scored, or all of it. A prompt with choices is one
sequence for each; the answer is the one with the highest log-likelihood, as in `choices`.

Shapes: P prompts, Q sequences, L routers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..generate.detokenise import UNFINISHED
from ..prompts.prompt import Prompt
from ..tokens.choices import picked
from ..tokens.encode import Encoded, Encoder
from ..tokens.token_text import TokenTexts
from .forced_passes import Pass, Work, scored_tokens
from .outcome import Outcome


@dataclass(frozen=True)
class Scored:
    """One sequence that is scored."""

    prompt: int
    choice: int | None
    encoded: Encoded
    bytes: int
    """UTF-8 bytes of the scored text."""


def scored_sequences(prompts: Sequence[Prompt], encoder: Encoder, tokenizer: Any) -> list[Scored]:
    """The sequences of a prompt set. Raises `EncodingError` where one does not fit the model."""
    found: list[Scored] = []
    texts = TokenTexts(tokenizer)
    for number, (prompt, whole) in enumerate(zip(prompts, encoder.prompts(prompts), strict=True)):
        if prompt.choices:
            pairs = zip(prompt.choices, encoder.choices(prompt), strict=True)
            found += [Scored(number, i, own, len(text.encode())) for i, (text, own) in enumerate(pairs)]
        else:
            found.append(Scored(number, None, whole, _scored_bytes(prompt, whole, tokenizer, texts)))
    return found


def _scored_bytes(prompt: Prompt, encoded: Encoded, tokenizer: Any, texts: TokenTexts) -> int:
    if encoded.completion.any():
        return len((prompt.completion or "").encode())
    size = len(prompt.text.encode())
    if encoded.special[0]:
        return size
    # Decoded, since some tokenizers spell a first token with a space that the text has not.
    first_id = int(encoded.ids[0])
    first = tokenizer.decode([first_id])
    return size - (texts.num_bytes(first_id) if UNFINISHED in first else len(first.encode()))


class Tally:
    """Sums over the sequences of one variant."""

    def __init__(self, sequences: Sequence[Scored], routers: int) -> None:
        self.sequences = sequences
        self.logprob_Q = np.zeros(len(sequences))
        self.kl_Q = np.zeros(len(sequences))
        self.changed_QL = np.zeros((len(sequences), routers))

    def add(self, numbers: np.ndarray, work: Work, result: Pass) -> None:
        """What a pass over these sequences gave."""
        size = len(numbers)
        for total_Q, value_N in ((self.logprob_Q, result.logprob_N), (self.kl_Q, result.kl_N)):
            total_Q[numbers] = np.bincount(work.sequence_N, value_N, minlength=size)
        for router, changed_T in enumerate(result.changed_LT):
            changed = np.bincount(work.batch.sequence_T, changed_T, minlength=size)
            self.changed_QL[numbers, router] = changed

    def choice_logprobs(self, prompts: int) -> list[list[float] | None]:
        """Log-likelihood of each choice, by prompt; None for a prompt without choices."""
        found: list[list[float] | None] = [None] * prompts
        for sequence, value in zip(self.sequences, self.logprob_Q.tolist(), strict=True):
            if sequence.choice is not None:
                found[sequence.prompt] = [*(found[sequence.prompt] or []), value]
        return found

    def outcome(self, prompts: Sequence[Prompt]) -> Outcome:
        """The sums by prompt."""
        outcome = Outcome.empty(len(prompts), self.changed_QL.shape[1])
        for number, sequence in enumerate(self.sequences):
            place, tokens = sequence.prompt, int(scored_tokens(sequence.encoded).sum())
            outcome.kl_P[place] += self.kl_Q[number]
            outcome.positions_P[place] += tokens
            outcome.changed_PL[place] += self.changed_QL[number]
            outcome.routed_P[place] += len(sequence.encoded)
            if sequence.choice is None or sequence.choice == prompts[place].answer:
                outcome.nll_P[place] = -self.logprob_Q[number]
                outcome.tokens_P[place] = tokens
                outcome.bytes_P[place] = sequence.bytes
        for place, logprobs in enumerate(self.choice_logprobs(len(prompts))):
            if logprobs is not None and prompts[place].answer is not None:
                outcome.correct_P[place] = picked(logprobs) == prompts[place].answer
        return outcome

"""Which tokens of which prompts count: one object for every function that reads a trace."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import pyarrow as pa

from ..errors import UnknownColumn
from ..option_group import OptionGroup
from ..write.rollups import KNOWN_PHASES
from .arrays import RollupRows
from .selection import Where

if TYPE_CHECKING:

    class HasPrompts(Protocol):
        def prompt_mask(self, where: Where | None) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class TokenKind(OptionGroup):
    """Which tokens of a prompt count; `WORDS` says what each field does."""

    TITLE: ClassVar[str] = "Tokens that count"
    WORDS: ClassVar[Mapping[str, str]] = {
        "where": "prompts to take, e.g. language=ja,ko; give it again, or put ; between, for further conditions.",
        "special": "false leaves special and template tokens out.",
        "phase": "prefill (the prompt's tokens) or decode (generated tokens): only those; unknown phases are neither.",
        "completion": "true takes the teacher-forced completion only, false everything else only.",
        "last": "only the last so many tokens of each prompt itself.",
    }
    """The words of `ContrastFilter` and `TokenFilter` too: one place for each name."""
    special: bool = True
    phase: str | None = None
    completion: bool | None = None

    def columns(self) -> list[str]:
        """Columns of the tokens that decide which are wanted; none where all are."""
        asked = {
            "special": not self.special,
            "phase": self.phase is not None,
            "completion": self.completion is not None,
        }
        return [name for name, wanted in asked.items() if wanted]

    def of_tokens(self, tokens: pa.Table) -> np.ndarray:
        """(N,) bool: rows of a table of tokens, or of anything with their columns, that are wanted."""
        good = np.ones(tokens.num_rows, bool)
        if not self.special:
            good &= ~np.asarray(tokens["special"])
        if self.phase is not None:
            good &= np.asarray(tokens["phase"].cast(pa.string())) == self.phase
        if self.completion is not None:
            good &= np.asarray(tokens["completion"]) == self.completion
        return good

    def of_rollups(self, rollups: RollupRows) -> np.ndarray:
        """(R,) bool: rollup rows of such tokens."""
        return rollups.mask(self.special, self.phase, self.completion)

    def check(self) -> None:
        """Raises UnknownColumn for an unknown phase."""
        if self.phase is not None and self.phase not in KNOWN_PHASES:
            raise UnknownColumn(f"phase is {self.phase!r}; it is one of {', '.join(KNOWN_PHASES)}")

    def note(self) -> str:
        """Which tokens were taken, to print beside a figure."""
        kinds = [] if self.phase is None else [f"{self.phase} tokens only"]
        if self.completion is not None:
            kinds.append("the completion only" if self.completion else "without the completion")
        inside = "counted" if self.special else "left out"
        return "; ".join([f"Special and template tokens are {inside}", *kinds]) + "."


@dataclass(frozen=True, kw_only=True)
class TokenFilter(TokenKind):
    """Which tokens of which prompts count."""

    where: Where | None = None

    @classmethod
    def of(cls, tokens: Self | None, kinds: Mapping[str, Any]) -> Self:
        """A filter given whole or by its fields. Raises TypeError for a name that is no field."""
        return cls(**kinds) if tokens is None else tokens

    @property
    def key(self) -> Hashable:
        """Equal for equal filters."""
        where = sorted(
            (name, (values,) if isinstance(values, str) else tuple(values))
            for name, values in (self.where or {}).items()
        )
        return tuple(where), self.special, self.phase, self.completion

    def rows(self, trace: HasPrompts, rollups: RollupRows) -> np.ndarray:
        """(R,) bool: rollup rows of these tokens of these prompts."""
        wanted_R = self.of_rollups(rollups)
        return wanted_R if self.where is None else wanted_R & trace.prompt_mask(self.where)[rollups.prompt_R]


ALL_TOKENS = TokenFilter()

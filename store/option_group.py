"""Options that belong together, as one object: a view takes the object, its callers name the fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar


@dataclass(frozen=True)
class OptionGroup:
    """Base of frozen dataclasses of options; see `TokenFilter` and `views/options.py`."""

    TITLE: ClassVar[str]
    """Heading of the fields in a help text."""
    WORDS: ClassVar[Mapping[str, str]]
    """What each field does, in the words of the command line."""

    @classmethod
    def words(cls) -> dict[str, str]:
        """The name of each field, and what it does in words, for help texts."""
        return {field.name: cls.WORDS[field.name] for field in fields(cls)}

"""Numbers and names as they stand in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ...store.amount import amount as amount
from .languages import language_name


def value_name(column: str, value: str | None) -> str:
    """A value of a filter column as it reads in a sentence."""
    if column == "language":
        return language_name(value)
    return f"no {column}" if value is None else value


def option(column: str, value: str) -> str:
    """A value as it stands in a list to choose from: two codes may share a language's name."""
    name = value_name(column, value)
    return name if name == value else f"{name} ({value})"


def percent(share: float | None, *, signed: bool = False) -> str:
    """0.314 → `31.4 %`, 0.125 → `12.5 %`, 0.5 → `50 %`, 0.00314 → `0.31 %`; with a narrow no-break space."""
    if share is None or not math.isfinite(share):
        return "–"
    value = share * 100
    if value == 0:
        return "0\u202f%"
    text = f"{value:{'+' if signed else ''}.{1 if abs(value) >= 0.95 else 2}f}"
    text = text.removesuffix(".0").replace("-", "−")
    return f"{text}\u202f%"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return percent(difference, signed=True).replace("%", "points")


def count(number: float) -> str:
    """12345 → `12,345`."""
    return f"{number:,.0f}"


def size(num_bytes: float) -> str:
    """Bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if num_bytes >= 10 or unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """`40 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def left(seconds: float) -> str:
    """`40 s left`; an estimate that has run out says so instead of `0 s left`."""
    return f"{duration(seconds)} left" if seconds >= 0.5 else "taking longer than estimated"


def listing(words: Iterable[str], *, most: int = 4) -> str:
    """`a, b and c`; beyond `most` the rest is counted."""
    items = list(words)
    if len(items) > most:
        items = [*items[: most - 1], f"{len(items) - most + 1} more"]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else "none"


def sentence(text: str) -> str:
    """The message of an error as a sentence of a page; a name or a path at its beginning keeps its letters."""
    first = text.split(" ", 1)[0]
    shown = text[:1].upper() + text[1:] if first.isalpha() else text
    return shown if shown.endswith((".", "!", "?", ":")) or not shown else f"{shown}."


def selection(where: Mapping[str, Sequence[str]]) -> str:
    """A prompt selection in words: `Japanese and Korean, register law`."""
    parts = []
    for column, values in where.items():
        names = listing(value_name(column, value) for value in values)
        parts.append(names if column in ("language", "group") else f"{column} {names}")
    return ", ".join(parts) if parts else "all prompts"


def tokens(params: Mapping[str, object]) -> str:
    """Which tokens a view's parameters choose: `all tokens`, `generated tokens, without special tokens`."""
    phases: dict[object, str] = {"prefill": "prompt tokens", "decode": "generated tokens"}
    completion: dict[object, str] = {True: "completion tokens", False: "without the completion"}
    parts = [
        phases.get(params.get("phase")),
        completion.get(params.get("completion")),
        "without special tokens" if params.get("special") is False else None,
    ]
    return ", ".join(filter(None, parts)) or "all tokens"


def label(text: str) -> str:
    """Text for a widget's label, with everything that Markdown would read escaped."""
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]()<>#+-.!|~$:^=&" else sign for sign in text)


def label_of_view(name: str) -> str:
    """`co-activation` → `Co-activation`, `expert-tokens` → `Expert tokens`."""
    kept = {"co-activation": "Co-activation"}
    return kept.get(name, name.replace("-", " ").capitalize())


def power(value: float) -> str:
    """A large number by its power of ten: 1e22."""
    return f"{value:.3g}".replace("e+", "e")

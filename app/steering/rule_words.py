"""Rules in words, and two answers with the words that differ marked."""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Iterable, Sequence

from ...tracer.steering.rules import Rule
from ..text import words
from ..text.literal import direction

ANSWER_WORD = re.compile(
    # Scripts without spaces are compared sign by sign.
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
    r"|\s+|\w+|[^\w\s]"
)


def rule_group(rules: Sequence[Rule]) -> str:
    """`off: 3 experts in layers 2 and 5 (2: 7, 9; 5: 1)`, for neighbours that do the same."""
    first = rules[0]
    what = f"{first.rule}{_amount(first)}{_pairs(first)}"
    streams = {rule.stream for rule in rules} - {"decoder"}
    when = _when(first)
    tail = "".join(f" · {part}" for part in (*sorted(streams), when) if part)
    if not first.kind.experts:
        return f"{what} in {_layers(first.layers)}{tail}"
    if any(rule.layers is None or rule.experts is None for rule in rules) or len(rules[0].layers or ()) > 1:
        places = "; ".join(f"{_experts(rule.experts)} in {_layers(rule.layers)}" for rule in rules)
        return f"{what}: {places}{tail}"
    number = sum(len(rule.experts or ()) for rule in rules)
    where = "; ".join(f"layer {rule.layers[0]}: {_some(rule.experts or ())}" for rule in rules if rule.layers)
    count = "" if number == 1 else f"{words.amount(number, 'expert')} · "
    return f"{what}: {count}{where}{tail}"


def _amount(rule: Rule) -> str:
    number = rule.kind.number
    if isinstance(rule.amount, dict):
        values = sorted(rule.amount.values())
        return f" {values[0]:.2f}–{values[-1]:.2f} by layer" if values else ""
    if rule.amount is None or number is None or rule.amount == number.default:
        return ""
    unit = " logits" if rule.options.get("absolute") else number.unit
    sign = "+" if number.signed else ""
    return f" {rule.amount:{sign}g}{unit}".replace("-", "−")


def _pairs(rule: Rule) -> str:
    columns = rule.options.get("columns")
    return f" with column{'' if len(columns) == 1 else 's'} {_some(columns)}" if columns else ""


def _when(rule: Rule) -> str:
    span = rule.span.to_json()
    if span == "all":
        return ""
    names = {"prompt": "prompt only", "generation": "generated tokens only"}
    if isinstance(span, str):
        return names[span]
    until = "on" if span.get("to") is None else f"to {span['to']}"
    return f"from token {span['from']} {until}"


def _layers(layers: tuple[int, ...] | None) -> str:
    if layers is None:
        return "all layers"
    return f"layer{'' if len(layers) == 1 else 's'} {_some(layers)}"


def _experts(experts: tuple[int, ...] | None) -> str:
    return "all experts" if experts is None else f"expert{'' if len(experts) == 1 else 's'} {_some(experts)}"


def _some(numbers: Iterable[int], most: int = 9) -> str:
    """`0–3, 7`, at most so many pieces."""
    pieces: list[list[int]] = []
    for number in numbers:
        if pieces and number == pieces[-1][-1] + 1:
            pieces[-1].append(number)
        else:
            pieces.append([number])
    shown = [str(p[0]) if len(p) == 1 else f"{p[0]}–{p[-1]}" for p in pieces]
    return ", ".join(shown if len(shown) <= most else [*shown[:most], "…"])


def split_words(text: str) -> list[str]:
    """A text in the pieces that are compared; joined they are the text."""
    return ANSWER_WORD.findall(text)


def differing(base: str, steered: str, *, growing: bool = False) -> tuple[list[tuple[str, bool]], ...]:
    """The pieces of two texts, each with whether the other text lacks it there.

    Args:
        growing: the texts are not at their ends: what only the longer one has so far is no difference.
    """
    a, b = split_words(base), split_words(steered)
    marks: tuple[list[bool], list[bool]] = [False] * len(a), [False] * len(b)
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        at_end = a1 == len(a) and b1 == len(b) and kind in ("insert", "delete")
        if kind != "equal" and not (growing and at_end):
            marks[0][a0:a1] = [True] * (a1 - a0)
            marks[1][b0:b1] = [True] * (b1 - b0)
    return tuple(
        [(word, mark and not word.isspace()) for word, mark in zip(pieces, own, strict=True)]
        for pieces, own in ((a, marks[0]), (b, marks[1]))
    )


def answer_html(pieces: Sequence[tuple[str, bool]], language: str | None = None, *, end: str = "") -> str:
    """An answer as escaped HTML, differing words in <mark>; `end` is a class of what stands at its end."""
    parts: list[str] = []
    for word, marked in pieces:
        safe = html.escape(word)
        parts.append(f"<mark>{safe}</mark>" if marked else safe)
    tail = f'<i class="{end}"></i>' if end else ""
    return f'<p class="ms-answer" dir="{direction(language)}">{"".join(parts)}{tail}</p>'

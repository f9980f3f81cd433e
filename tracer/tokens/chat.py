"""Applies a tokenizer's chat template, and finds the user's own words in what it wrote.

The template is applied twice: to the messages, and to the same messages with a mark instead of each content.
What stands between the marks is the template's; the rest is the user's.
"""

from __future__ import annotations

from typing import Any

Span = tuple[int, int]


def render(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[str, list[Span]]:
    """The text that a chat model reads up to where its answer begins, and where message contents stand in it.

    Raises:
        ValueError: the tokenizer has no chat template, the template refuses the messages, or it rewrites them
            so
            that its own words can't be told from theirs.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("the tokenizer has no chat template")
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    text = _apply(tokenizer, messages)
    marked = _apply(
        tokenizer, [{**turn, "content": mark} for turn, mark in zip(messages, marks, strict=True)]
    )
    pieces, kept = _split(marked, marks)
    contents = [messages[number]["content"] for number in kept]
    for trimmed in (False, True):
        spans = _join(text, pieces, [content.strip() if trimmed else content for content in contents])
        if spans is not None:
            return text, spans
    return text, _between(text, pieces)


def _apply(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"the chat template rejects it: {reason[0]}") from error


def _split(marked: str, marks: list[str]) -> tuple[list[str], list[int]]:
    """The template's own pieces, one more than the contents it kept, and the numbers of those."""
    kept = sorted(
        (number for number, mark in enumerate(marks) if mark in marked), key=lambda n: marked.find(marks[n])
    )
    pieces, rest = [], marked
    for number in kept:
        before, _, rest = rest.partition(marks[number])
        pieces.append(before)
    return [*pieces, rest], kept


def _join(text: str, pieces: list[str], contents: list[str]) -> list[Span] | None:
    """Spans of the contents if the template wrote them unchanged between its pieces, else None."""
    spans, position = [], len(pieces[0])
    for content, piece in zip(contents, pieces[1:], strict=True):
        spans.append((position, position + len(content)))
        position += len(content) + len(piece)
    whole = pieces[0] + "".join(content + piece for content, piece in zip(contents, pieces[1:], strict=True))
    return spans if whole == text else None


def _between(text: str, pieces: list[str]) -> list[Span]:
    """Spans between the template's pieces where it changed the contents, found from left to right."""
    spans, start = [], len(pieces[0])
    if not text.startswith(pieces[0]):
        raise ValueError(
            "the chat template formats these messages differently, so its own tokens can't be told from the text"
        )
    for number, piece in enumerate(pieces[1:], 1):
        last = number == len(pieces) - 1
        end = len(text) - len(piece) if last and text.endswith(piece) else text.find(piece, start)
        if end < start:
            raise ValueError(
                "the chat template formats these messages differently, so its own tokens can't be told from the text"
            )
        spans.append((start, end))
        start = end + len(piece)
    return spans

"""Prompt files that others publish → the columns that moescope reads.

Each layout knows its files by their columns and turns a row's cells into ours; everything it doesn't use stays, and
becomes a tag. What was taken for what is told to the user: a wrong guess must not pass unseen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from babel.core import get_global

from .prompt import PromptSetError

Cells = Mapping[str, Any]
Row = tuple[str, Cells]

TEXT_COLUMNS = ("text", "prompt", "messages")
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
"""Speakers of ShareGPT files by the names that chat templates know."""


@dataclass(frozen=True)
class Layout:
    """One kind of file."""

    name: str
    columns: frozenset[str]
    """All of these are there."""
    read: Callable[[Cells], Cells]
    """Our columns; raises ValueError with what is wrong."""
    says: str
    """What is taken for what."""

    def fits(self, cells: Cells) -> bool:
        return self.columns <= cells.keys()


def _without(cells: Cells, *names: str) -> dict[str, Any]:
    return {name: value for name, value in cells.items() if name not in names}


def _sharegpt(cells: Cells) -> Cells:
    turns = cells["conversations"]
    if not isinstance(turns, list | tuple) or not turns:
        raise ValueError("conversations must be a list of turns")
    messages = []
    for number, turn in enumerate(turns, 1):
        speaker = turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else None
        said = turn.get("value", turn.get("content")) if isinstance(turn, Mapping) else None
        if not isinstance(speaker, str) or said is None:
            raise ValueError(f"turn {number} needs `from` and `value`")
        messages.append({"role": ROLES.get(speaker, speaker), "content": said})
    return {**_without(cells, "conversations"), "messages": messages}


def _alpaca(cells: Cells) -> Cells:
    instruction, context = cells["instruction"], cells.get("input")
    if not isinstance(instruction, str) or not isinstance(context, str | None):
        raise ValueError("instruction and input must be text")
    text = f"{instruction}\n\n{context}" if context and context.strip() else instruction
    return {**_without(cells, "instruction", "input"), "text": text}


def _openai_batch(cells: Cells) -> Cells:
    body = cells["body"]
    if not isinstance(body, Mapping):
        raise ValueError("body must be an object")
    found = {"id": cells["custom_id"], **_without(cells, "custom_id", "method", "url", "body")}
    given = body.get("messages", body.get("prompt", body.get("input")))
    if given is None:
        raise ValueError("body has neither messages nor a prompt")
    model = {} if body.get("model") is None else {"model": body["model"]}
    return {**found, **model, "messages" if isinstance(given, list) else "text": given}


def _lm_eval(cells: Cells) -> Cells:
    calls = _calls(cells["arguments"])
    texts = {call[0] for call in calls}
    if len(texts) != 1:
        raise ValueError("its choices have different contexts, so the text to trace is ambiguous")
    found: dict[str, Any] = {"text": calls[0][0]}
    options = [call[1] for call in calls if len(call) > 1 and isinstance(call[1], str)]
    target = cells.get("target")
    if len(calls) > 1 and len(options) == len(calls):
        found["choices"] = options
        found["answer"] = _index(target, options)
    elif target is not None:
        found["target"] = target
    name = cells.get("filter")
    number = cells["doc_id"]
    found["id"] = number if name in (None, "none") else f"{number}/{name}"
    return {**_plain_tags(cells, "doc_id", "arguments", "target"), **found}


def _calls(arguments: Any) -> list[list[Any]]:
    """Arguments of each call of the model: [[context, continuation or settings], ...]."""
    if isinstance(arguments, Mapping):
        arguments = [
            [call[key] for key in sorted(call)] for call in arguments.values() if isinstance(call, Mapping)
        ]
    if not isinstance(arguments, list) or not arguments:
        raise ValueError("arguments must hold the calls of the model")
    calls = [list(call) for call in arguments if isinstance(call, list | tuple) and call]
    if len(calls) < len(arguments) or not all(isinstance(call[0], str) for call in calls):
        raise ValueError("arguments must hold the text of each call")
    return calls


def _index(target: Any, options: list[str]) -> Any:
    """lm-eval writes the index of the right choice as a number or as its digits; other files its text."""
    stripped = [option.strip() for option in options]
    if isinstance(target, str) and re.fullmatch("[0-9]{1,4}", target.strip()) and int(target) < len(options):
        return int(target)
    if isinstance(target, str) and target.strip() in stripped:
        return stripped.index(target.strip())
    return target


def _plain_tags(cells: Cells, *used: str) -> dict[str, Any]:
    """Cells that make short tags; nested ones (the document, the answers) would repeat the prompt."""
    plain = _without(cells, *used)
    return {name: value for name, value in plain.items() if isinstance(value, str | int | float | bool)}


def _flores(cells: Cells) -> Cells:
    language = bcp47(str(cells["iso_639_3"]), str(cells["iso_15924"]))
    found = {"id": f"{cells['id']}-{language}", "parallel_id": str(cells["id"]), "language": language}
    return {**found, **_without(cells, "id", "iso_639_3", "iso_15924")}


def _belebele(cells: Cells) -> Cells:
    dialect = str(cells["dialect"])
    code, _, script = dialect.partition("_")
    number = cells["correct_answer_num"]
    if str(number) not in ("1", "2", "3", "4"):
        raise ValueError(f"correct_answer_num is {str(number)[:20]!r}, not 1 to 4")
    answers = [f"mc_answer{n}" for n in range(1, 5)]
    return {
        "text": f"{cells['flores_passage']}\nQuestion: {cells['question']}\nAnswer:",
        "choices": [f" {cells[name]}" for name in answers],
        "answer": int(number) - 1,
        "language": bcp47(code, script),
        "parallel_id": f"{cells.get('link', '')}#{cells.get('question_number', '')}",
        **_without(cells, "flores_passage", "question", *answers, "correct_answer_num", "dialect"),
    }


def _mgsm(cells: Cells) -> Cells:
    return {
        "text": cells["question"],
        "target": cells["answer_number"],
        **_plain_tags(cells, "question", "answer_number", "answer"),
    }


def _question(cells: Cells) -> Cells:
    found = {"text": cells["question"], **_without(cells, "question", "answerKey")}
    if "answer" not in cells and "answerKey" in cells:
        found["answer"] = cells["answerKey"]
    choices = _listed(cells.get("choices"))
    texts = choices.get("text") if isinstance(choices, Mapping) else choices
    if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
        # A choice is read directly after the text, so something must stand between them.
        spaced = [f" {text.strip()}" for text in texts]
        found["choices"] = {**choices, "text": spaced} if isinstance(choices, Mapping) else spaced
        found["text"] = f"{cells['question']}\nAnswer:"
    return found


def _listed(choices: Any) -> Any:
    """Choices out of a cell of CSV: a JSON list, an object with text and labels, or texts between `|`."""
    if not isinstance(choices, str):
        return choices
    if not choices.lstrip().startswith(("[", "{")):
        return choices.split("|")
    try:
        return json.loads(choices)
    except (ValueError, RecursionError):
        return choices  # refused where choices are read, by row and column


LAYOUTS = (
    Layout("ShareGPT", frozenset({"conversations"}), _sharegpt, "the turns of `conversations` are the messages"),
    Layout(
        "OpenAI batch", frozenset({"custom_id", "body"}), _openai_batch,
        "`custom_id` is the id, the body's messages or prompt are the prompt",
    ),
    Layout(
        "lm-eval samples", frozenset({"doc_id", "arguments"}), _lm_eval,
        "the text is what the model was given; continuations are the choices",
    ),
    Layout(
        "FLORES+", frozenset({"id", "iso_639_3", "iso_15924", "text"}), _flores,
        "`id` is the parallel id, the language comes from the codes",
    ),
    Layout(
        "Belebele", frozenset({"flores_passage", "question", "mc_answer1", "correct_answer_num", "dialect"}),
        _belebele, "the text is passage and question, the answers are the choices, counted from 0",
    ),
    Layout("MGSM", frozenset({"question", "answer_number"}), _mgsm, "`question` is the text, `answer_number` a tag"),
    Layout(
        "Alpaca", frozenset({"instruction"}), _alpaca,
        "the text is `instruction`, then `input` after an empty line where it is not empty",
    ),
    Layout("questions", frozenset({"question"}), _question,
        "`question` is the text; where there are choices, each is read after `Answer:`"),
)  # fmt: skip
"""In the order in which they are tried."""


def layout_of(cells: Cells) -> Layout | None:
    """The published layout that a row has; None where its columns are ours already."""
    if "iso_639_3" not in cells and any(name in cells for name in TEXT_COLUMNS):
        return None
    return next((layout for layout in LAYOUTS if layout.fits(cells)), None)


@dataclass
class Layouts:
    """Turns rows into our columns and remembers what they were."""

    name: str
    """Of the file, for messages."""
    found: dict[str, Layout] = field(default_factory=dict)

    def rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        for place, cells in rows:
            layout = layout_of(cells)
            if layout is None:
                yield place, cells
                continue
            self.found[layout.name] = layout
            try:
                yield place, layout.read(cells)
            except (ValueError, TypeError, AttributeError) as error:
                raise PromptSetError(f"{self.name}, {place}: {error} ({layout.name})") from None

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(f"read as {layout.name}: {layout.says}" for layout in self.found.values())


def bcp47(code: str, script: str = "") -> str:
    """`deu`, `Latn` → `de`; `cmn`, `Hant` → `zh-Hant`: the shortest BCP 47 tag, by Unicode's CLDR."""
    short = get_global("language_aliases").get(code, code)
    usual = get_global("likely_subtags").get(short, "")
    return short if not script or f"_{script}_" in usual else f"{short}-{script}"

"""Templates with slots → a balanced prompt set: every combination of the slots' values, once.

    template = "What happened {time}{place}?"
    contrast = "place"                     # optional: group = this slot's value, pairs share the other slots
    [slots]
    time = ["yesterday", "in 1989"]
    place = [{ text = " in Beijing", tag = "beijing" }, { text = " in Paris", tag = "paris" }]
    [columns]                              # optional: the same cell for every prompt
    language = "en"

A slot's value (its `tag` where it has one) is kept as a tag named like the slot.
"""

from __future__ import annotations

import itertools
import string
import tomllib
from pathlib import Path
from typing import Any

from .prompt import PromptSetError
from .prompt_set import PromptSet

MAX_PROMPTS = 1_000_000
KEYS = ("template", "completion", "contrast", "slots", "columns")

Value = tuple[str, str]
"""What stands in the text, and the tag that is kept of it."""


def expand_file(path: str | Path) -> PromptSet:
    """Reads a TOML template and makes its prompt set.

    Raises:
        PromptSetError: names the file and the key that is missing or wrong.
    """
    path = Path(path)
    try:
        spec = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise PromptSetError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PromptSetError(f"{path.name}: not TOML: {error}") from None
    return expand_template(spec, name=path.name)


def expand_template(spec: dict[str, Any], *, name: str = "template") -> PromptSet:
    """Fills the slots of `spec` (the keys of the example above) with every combination of their values."""
    unknown = sorted(set(spec) - set(KEYS))
    if unknown:
        raise PromptSetError(f"{name}: unknown key {unknown[0]!r} (known: {', '.join(KEYS)})")
    slots = {slot: _values(name, slot, values) for slot, values in _table(spec, "slots", name).items()}
    texts = {key: spec[key] for key in ("template", "completion") if key in spec}
    _check_fields(texts, slots, name)
    contrast = spec.get("contrast")
    if contrast is not None and contrast not in slots:
        raise PromptSetError(f"{name}, key 'contrast': there is no slot {contrast!r}")
    columns = _table(spec, "columns", name)
    total = 1
    for values in slots.values():
        total *= len(values)
    if total > MAX_PROMPTS:
        raise PromptSetError(f"{name}: makes {total:,} prompts, more than {MAX_PROMPTS:,}")
    rows = [
        _row(number, texts, dict(zip(slots, chosen, strict=True)), contrast, columns)
        for number, chosen in enumerate(itertools.product(*slots.values()), 1)
    ]
    return PromptSet.from_rows(rows, name=name)


def _table(spec: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    table = spec.get(key, {})
    if not isinstance(table, dict):
        raise PromptSetError(f"{name}, key {key!r}: must be a table")
    return table


def _values(name: str, slot: str, values: Any) -> list[Value]:
    if not isinstance(values, list) or not values:
        raise PromptSetError(f"{name}, slot {slot!r}: must be a list of values")
    pairs = [_value(name, slot, item) for item in values]
    tags = [tag for _, tag in pairs]
    if len(set(tags)) < len(tags):
        raise PromptSetError(f"{name}, slot {slot!r}: has the same value twice")
    return pairs


def _value(name: str, slot: str, item: Any) -> Value:
    if isinstance(item, dict) and isinstance(item.get("text"), str) and set(item) <= {"text", "tag"}:
        tag = item.get("tag", item["text"].strip())
        if isinstance(tag, str):
            return item["text"], tag
    if isinstance(item, str):
        return item, item.strip()
    raise PromptSetError(f"{name}, slot {slot!r}: a value is a text or {{text, tag}}, not {item!r:.60}")


def _check_fields(texts: dict[str, Any], slots: dict[str, list[Value]], name: str) -> None:
    if not isinstance(texts.get("template"), str):
        raise PromptSetError(f"{name}, key 'template': the text with its {{slots}} is missing")
    named: set[str] = set()
    for key, text in texts.items():
        try:
            fields = [(field, form, conv) for _, field, form, conv in string.Formatter().parse(text)]
        except (ValueError, TypeError) as error:
            raise PromptSetError(f"{name}, key {key!r}: {error} (write {{{{ for a brace)") from None
        for field, form, conversion in fields:
            if field is None:
                continue
            if field not in slots or form or conversion:
                raise PromptSetError(f"{name}, key {key!r}: there is no slot {field!r}")
            named.add(field)
    idle = sorted(set(slots) - named)
    if idle:
        raise PromptSetError(f"{name}, slot {idle[0]!r}: the template does not use it")


def _row(
    number: int, texts: dict[str, str], chosen: dict[str, Value], contrast: Any, columns: dict[str, str]
) -> dict[str, Any]:
    filling = {slot: text for slot, (text, _) in chosen.items()}
    tags = {slot: tag for slot, (_, tag) in chosen.items()}
    row = {**columns, **tags, "id": str(number), "text": texts["template"].format_map(filling)}
    if "completion" in texts:
        row["completion"] = texts["completion"].format_map(filling)
    if contrast:
        row["group"] = tags[contrast]
        row["parallel_id"] = " | ".join(tag for slot, tag in tags.items() if slot != contrast) or "all"
    return row

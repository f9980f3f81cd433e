"""What kind of language each is: by script, by its resources, or by a tag that all its prompts share."""

from __future__ import annotations

import pyarrow as pa

from ...read.selection import Where
from ...read.trace_rows import TraceRows
from ..registry import view
from .resource_classes import resource_class
from .scripts import script_of

SEVERAL = "several"


@view("language-classes")
def language_classes(trace: TraceRows, *, by: str = "script", where: Where | None = None) -> pa.Table:
    """A class for each language, to colour or to group languages by.

    Args:
        by: `script` (of the letters of its texts), `resources` (class 1 to 5 of Joshi et al., 2020), or `group` or
            a tag; a tag of the trace that is called so wins.
    Returns:
        language, class (null where unknown; `several` where the prompts of a language differ), prompts.
    """
    chosen_P = trace.prompt_mask(where)
    language_P = trace.prompts()["language"].to_pylist()
    by_script = by == "script" and by not in trace.tags()
    value_P = trace.prompts()["text"].to_pylist() if by_script else _values(trace, by, language_P)
    of: dict[str, list[str | None]] = {}
    for language, value, chosen in zip(language_P, value_P, chosen_P, strict=True):
        if chosen and language is not None:
            of.setdefault(language, []).append(value)
    class_of = _script if by_script else _shared
    rows = [
        {"language": language, "class": class_of(values), "prompts": len(values)}
        for language, values in sorted(of.items())
    ]
    schema = pa.schema([("language", pa.string()), ("class", pa.string()), ("prompts", pa.int64())])
    return pa.Table.from_pylist(rows, schema=schema)


def _values(trace: TraceRows, by: str, language_P: list[str | None]) -> list[str | None]:
    if by == "resources" and by not in trace.tags():
        return [language and resource_class(language) for language in language_P]
    groups = trace.groups(by)
    return [groups.names[number] for number in groups.group_P]


def _script(texts: list[str | None]) -> str | None:
    return script_of(text for text in texts if text is not None)


def _shared(values: list[str | None]) -> str | None:
    different = {value for value in values if value is not None}
    return None if not different else different.pop() if len(different) == 1 else SEVERAL

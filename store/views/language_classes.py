"""What kind of language each is: by script, or by a tag that all its prompts share."""

from __future__ import annotations

import pyarrow as pa

from ..reader import Trace
from ..scripts import script_of
from ..selection import Where
from . import view

SEVERAL = "several"


@view("language-classes")
def language_classes(trace: Trace, *, by: str = "script", where: Where | None = None) -> pa.Table:
    """A class for each language, to colour or to group languages by.

    Args:
        by: `script` (of the letters of its texts), or `group` or a tag.
        where: prompts to take.
    Returns:
        language, class (null where unknown; `several` where the prompts of a language differ), prompts.
    """
    chosen_P = trace.prompt_mask(where)
    prompts = trace.prompts()
    language_P = prompts["language"].to_pylist()
    if by == "script":
        value_P = prompts["text"].to_pylist()
    else:
        groups = trace.groups(by)
        value_P = [groups.names[number] for number in groups.group_P]
    of: dict[str, list[str | None]] = {}
    for language, value, chosen in zip(language_P, value_P, chosen_P, strict=True):
        if chosen and language is not None:
            of.setdefault(language, []).append(value)
    rows = [
        {"language": language, "class": _class(values, by), "prompts": len(values)}
        for language, values in sorted(of.items())
    ]
    schema = pa.schema([("language", pa.string()), ("class", pa.string()), ("prompts", pa.int64())])
    return pa.Table.from_pylist(rows, schema=schema)


def _class(values: list[str | None], by: str) -> str | None:
    known = [value for value in values if value is not None]
    if by == "script":
        return script_of(known)
    different = set(known)
    return None if not different else different.pop() if len(different) == 1 else SEVERAL

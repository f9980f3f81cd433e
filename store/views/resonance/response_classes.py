"""What the model did, prompt by prompt: the class of each answer and the words that decided."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from ...read.selection import Where
from ...read.trace_rows import TraceRows
from ...response_classes import Rules, classify, read_rules
from ..registry import view


@view("response-classes")
def response_classes(trace: TraceRows, *, rules: Rules | str, where: Where | None = None) -> pa.Table:
    """The class of each generated answer, with the rule and the words that decided.

    Args:
        rules: a JSON file {"class": ["regular expression", ...], ...}; the first that matches decides.
    Returns:
        prompt_id, class (null where nothing was generated), pattern, matched, generated.
    """
    found_rules = rules if isinstance(rules, Mapping) else read_rules(rules)
    prompts = trace.prompts(where).select(["prompt_id", "generated"]).to_pylist()
    rows = []
    for row in prompts:
        found = classify(row["generated"], found_rules)
        name, pattern, matched = (
            (None, None, None) if found is None else (found.name, found.pattern, found.matched)
        )
        rows.append(
            {"prompt_id": row["prompt_id"], "class": name, "pattern": pattern, "matched": matched,
             "generated": row["generated"]}
        )  # fmt: skip
    names = ("prompt_id", "class", "pattern", "matched", "generated")
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in names]))

"""Who is contrasted with whom: from values, queries, classes of answers or hand-picked ids to two groups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...amount import amount
from ...errors import StoreError
from ...option_group import OptionGroup
from ...read.selection import Where
from ...read.token_filter import TokenKind
from ...read.trace_rows import TraceRows
from ...response_classes import Classes, Rules, classify, read_classes, read_rules
from ...sql.query import TRUNCATED, run_query

Group = str | Sequence[str] | None
"""Values of the column `by`; or one SELECT of prompt ids; None for all other prompts (the rest only)."""
_CONDITION = re.compile(r"\s*select\s+prompt_id\s+from\s+prompts\s+where\s+(.*?);?\s*", re.I | re.S)


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The label of each prompt: `target`, `rest` or None."""

    labels_P: list[str | None]
    target: str
    """In words."""
    rest: str

    def mask(self, label: str) -> np.ndarray:
        return np.array([found == label for found in self.labels_P], bool)


@dataclass(frozen=True, kw_only=True)
class Grouping(OptionGroup):
    """How the prompts of a contrast are told apart: everything but the target."""

    TITLE: ClassVar[str] = "Groups of prompts"
    WORDS: ClassVar[Mapping[str, str]] = {
        "by": "group, language, any tag, prompt_id, or class (of the answer, with `rules` or `classes`).",
        "rest": "values of `by` (comma between), or a SELECT of prompt ids; all other prompts by default.",
        "where": TokenKind.WORDS["where"],
        "rules": 'for class: a JSON file of rules, {"class": ["regular expression", ...]}.',
        "classes": "for class, instead of rules: a CSV of prompt_id, class.",
    }
    by: str = "group"
    rest: Group = None
    where: Where | None = None
    rules: Rules | str | None = None
    classes: Classes | str | None = None

    def sides(self, trace: TraceRows, target: Group) -> Sides:
        """Who is contrasted with whom.

        Raises:
            StoreError: no such values, a group without prompts, or a prompt in both groups.
        """
        by, rest = self.by, self.rest
        values_P = values_of(trace, by, self.rules, self.classes)
        wanted_P = trace.prompt_mask(self.where)
        target_P = _members(trace, values_P, target, by) & wanted_P
        others = rest is None or len(rest) == 0
        rest_P = (
            wanted_P & ~target_P & np.array([value is not None for value in values_P], bool)
            if others
            else _members(trace, values_P, rest, by) & wanted_P
        )
        both = np.flatnonzero(target_P & rest_P)
        if len(both):
            name = trace.prompts()["prompt_id"][int(both[0])].as_py()
            raise StoreError(f"the two groups share {amount(len(both), 'prompt')}, for instance {name!r}")
        words = _words(target, by), "the rest" if others else _words(rest, by)
        for word, mask in zip(words, (target_P, rest_P), strict=True):
            if not mask.any():
                known = sorted({value for value in values_P if value is not None})[:20]
                raise StoreError(
                    f"no prompt belongs to {word}; {by} is one of: {', '.join(known) or 'nothing'}"
                )
        labels = np.full(len(values_P), None, object)
        labels[target_P], labels[rest_P] = "target", "rest"
        return Sides(labels_P=labels.tolist(), target=words[0], rest=words[1])


BY_GROUP = Grouping()


def values_of(
    trace: TraceRows, by: str, rules: Rules | str | None, classes: Classes | str | None
) -> list[str | None]:
    """(P,) what `by` says of each prompt."""
    prompts = trace.prompts()
    ids = prompts["prompt_id"].to_pylist()
    if by == "prompt_id":
        return ids
    if by != "class":
        groups = trace.groups(by)
        return [groups.names[number] for number in groups.group_P]
    if isinstance(rules, str) and rules.endswith(".csv"):
        rules, classes = None, rules
    if classes is not None:
        class_of = classes if isinstance(classes, Mapping) else read_classes(classes)
        return [class_of.get(prompt_id) for prompt_id in ids]
    if rules is None:
        raise StoreError(
            "contrasting by class needs rules (a JSON file of rules) or classes (a CSV of prompt_id, class)"
        )
    found_rules = rules if isinstance(rules, Mapping) else read_rules(rules)
    found = [classify(text, found_rules) for text in prompts["generated"].to_pylist()]
    return [None if one is None else one.name for one in found]


def _is_query(group: Group) -> bool:
    return isinstance(group, str) and group.lstrip().lower().startswith("select ")


def _members(trace: TraceRows, values_P: list[str | None], group: Group, by: str) -> np.ndarray:
    if group is None or len(group) == 0:
        raise StoreError(f"name a value of {by} for the target group")
    if _is_query(group):
        assert isinstance(group, str)
        found = run_query(trace, group, rows=max(10_000, 2 * trace.num_prompts))
        if TRUNCATED in (found.schema.metadata or {}):
            raise StoreError("the query gives more rows than there are prompts: select each prompt_id once")
        ids = set(found.column(0).cast("string").to_pylist())
        return np.array([one in ids for one in trace.prompts()["prompt_id"].to_pylist()], bool)
    wanted = set(group.split(",")) if isinstance(group, str) else set(group)
    return np.array([value in wanted for value in values_P], bool)


def _words(group: Group, by: str) -> str:
    if _is_query(group):
        assert isinstance(group, str)
        condition = _CONDITION.fullmatch(group)
        return f"prompts where {' '.join(condition[1].split())}" if condition else "the prompts of a query"
    names = group.split(",") if isinstance(group, str) else list(group or ())
    return f"{by} {', '.join(names)}" if len(names) <= 5 else f"{len(names)} values of {by}"

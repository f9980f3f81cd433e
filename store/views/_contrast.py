"""Two groups of prompts and the routing map of each prompt: what a contrast is made of.

Shape legend: P prompts of the trace, M cells (the experts of all chosen routers, one router after another).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...kernels.counting import count_experts
from ...kernels.resonance import prompt_maps
from ..errors import StoreError
from ..reader import Trace
from ..response_classes import Rules, classify, read_classes, read_rules
from ..schema import RouterSpec
from ..selection import Where

Group = str | Sequence[str] | None
"""Values of the column `by`; or one SELECT of prompt ids; None for all other prompts (the rest only)."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The label of each prompt: `target`, `rest` or None."""

    labels_P: list[str | None]
    target: str
    """In words."""
    rest: str

    def mask(self, label: str) -> np.ndarray:
        return np.array([found == label for found in self.labels_P], bool)


def sides_of(
    trace: Trace, by: str, target: Group, rest: Group, where: Where | None, rules: Rules | str | None
) -> Sides:
    """Who is contrasted with whom.

    Args:
        by: a column or tag, `prompt_id`, or `class` for the class of the generated answer.
        rules: for `class`: rules, a JSON file of rules, or a CSV of prompt_id and class.
    Raises:
        StoreError: no such values, a group without prompts, or a prompt in both groups.
    """
    values_P = _values(trace, by, rules)
    wanted_P = trace.prompt_mask(where)
    target_P = _members(trace, values_P, target, by) & wanted_P
    rest_P = (
        wanted_P & ~target_P & np.array([value is not None for value in values_P], bool)
        if rest is None or rest == ""
        else _members(trace, values_P, rest, by) & wanted_P
    )
    both = np.flatnonzero(target_P & rest_P)
    if len(both):
        name = trace.prompts()["prompt_id"][int(both[0])].as_py()
        raise StoreError(f"{len(both)} prompts are in both groups, for instance {name!r}")
    words = _words(target, by), "the rest" if rest is None or rest == "" else _words(rest, by)
    for word, mask in zip(words, (target_P, rest_P), strict=True):
        if not mask.any():
            known = sorted({value for value in values_P if value is not None})[:20]
            raise StoreError(f"no prompt belongs to {word}; {by} is one of: {', '.join(known) or 'nothing'}")
    labels = np.full(len(values_P), None, object)
    labels[target_P], labels[rest_P] = "target", "rest"
    return Sides(labels_P=labels.tolist(), target=words[0], rest=words[1])


def _values(trace: Trace, by: str, rules: Rules | str | None) -> list[str | None]:
    prompts = trace.prompts()
    if by == "prompt_id":
        return prompts["prompt_id"].to_pylist()
    if by != "class":
        groups = trace.groups(by)
        return [groups.names[number] for number in groups.group_P]
    if isinstance(rules, str) and rules.endswith(".csv"):
        class_of = read_classes(rules)
        return [class_of.get(prompt_id) for prompt_id in prompts["prompt_id"].to_pylist()]
    if rules is None:
        raise StoreError(
            "contrasting by class needs rules: a JSON file of rules or a CSV of prompt_id, class"
        )
    found_rules = rules if isinstance(rules, Mapping) else read_rules(rules)
    found = [classify(text, found_rules) for text in prompts["generated"].to_pylist()]
    return [None if one is None else one.name for one in found]


def _is_query(group: Group) -> bool:
    return isinstance(group, str) and group.lstrip().lower().startswith("select ")


def _members(trace: Trace, values_P: list[str | None], group: Group, by: str) -> np.ndarray:
    if group is None or len(group) == 0:
        raise StoreError(f"name a value of {by} for the target group")
    if _is_query(group):
        assert isinstance(group, str)
        ids = set(trace.sql(group).column(0).cast("string").to_pylist())
        return np.array([one in ids for one in trace.prompts()["prompt_id"].to_pylist()], bool)
    wanted = set(group.split(",")) if isinstance(group, str) else set(group)
    return np.array([value in wanted for value in values_P], bool)


def _words(group: Group, by: str) -> str:
    if _is_query(group):
        return "the prompts of a query"
    names = group.split(",") if isinstance(group, str) else list(group or ())
    return f"{by} {', '.join(names)}" if len(names) <= 5 else f"{len(names)} values of {by}"


def maps_of(
    trace: Trace,
    routers: Sequence[RouterSpec],
    prompts_P: np.ndarray,
    *,
    measure: str,
    special: bool,
    phase: str | None,
    completion: bool | None,
    last: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The routing map of each chosen prompt.

    Args:
        prompts_P: (P,) bool, the prompts wanted.
        last: only the last so many tokens of each prompt's prefill.
    Returns:
        maps (Q, M) and (Q,) rows in `Trace.prompts()` of the Q wanted prompts that have any such token.
    """
    pieces, tokens = [], np.zeros(len(prompts_P), np.int64)
    for spec in routers:
        amounts = np.zeros((len(prompts_P), spec.num_experts))
        passed = np.zeros(len(prompts_P), np.int64)
        if last is None:
            arrays = trace.rollup_arrays(
                spec.layer, spec.stream, special=special, phase=phase, completion=completion
            )
            given = arrays.weight_sum if measure.startswith("weight") else arrays.count
            if given is None:
                raise StoreError("the trace has no gate weights; measure rate or count does without")
            amounts[arrays.prompt_index], passed[arrays.prompt_index] = given, arrays.tokens
        else:
            _add_last(trace, spec, amounts, passed, last, measure, special)
        kind = {"weights": amounts} if measure.startswith("weight") else {"counts": amounts}
        pieces.append(prompt_maps(tokens=passed, measure=measure, **kind))  # pyright: ignore[reportArgumentType]
        tokens = np.maximum(tokens, passed)
    rows = np.flatnonzero(prompts_P & (tokens > 0))
    return np.concatenate(pieces, axis=1)[rows], rows


def _add_last(
    trace: Trace,
    spec: RouterSpec,
    amounts: np.ndarray,
    passed: np.ndarray,
    last: int,
    measure: str,
    special: bool,
) -> None:
    """Add up the last tokens of each prompt's prefill from the events."""
    weighted = measure.startswith("weight")
    columns = ("experts", "weights") if weighted else ("experts",)
    for batch in trace.iter_router(
        spec.layer, spec.stream, columns=columns, special=special, phase="prefill"
    ):
        if batch.offsets is not None and weighted:
            raise StoreError("weights of the last tokens are not summed where k varies; use measure rate")
        ends = np.flatnonzero(np.r_[batch.prompt_index[1:] != batch.prompt_index[:-1], True])
        until = ends[np.searchsorted(ends, np.arange(len(batch.prompt_index)))]
        kept = until - np.arange(len(until)) < last
        prompts, group = np.unique(batch.prompt_index[kept], return_inverse=True)
        ids = batch.padded()[kept]
        weights = batch.weights[kept].astype(np.float64) if weighted else None
        amounts[prompts] += count_experts(
            ids, spec.num_experts, groups=group, num_groups=len(prompts), weights=weights
        )
        passed[prompts] += np.bincount(group, minlength=len(prompts))

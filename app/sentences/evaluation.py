"""What an evaluation shows, in words with its numbers."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa

from ..figures.steer_effects import PERCENT, format_of, in_points
from ..text import words

Row = dict[str, Any]
NOUNS = {
    "perplexity": "perplexity", "log_perplexity": "log perplexity", "bits_per_byte": "bits per byte",
    "accuracy": "accuracy", "kl": "KL", "changed": "share of routing changed",
}  # fmt: skip


def effect(table: pa.Table, measure: str, by: str | None, target: str | None) -> str:
    """One sentence on the effect that matters most, one on what may be said of it."""
    rows = [row for row in table.to_pylist() if row["measure"] == measure]
    own = {row["group"]: row for row in rows if row["kind"] == "profile"}
    group = target if target is not None and target in own else "all"
    row = own.get(group)
    if row is None:
        return "Nothing was measured."
    name = "all prompts" if group == "all" else words.value_name(by or "", group)
    noun = NOUNS.get(measure, f"the rate of {measure.removeprefix('behaviour: ')}")
    drawn = [one["change"] for one in rows if one["kind"] == "random" and one["group"] == group]
    said = f"On {name}, the profile changes {noun} by {number(row, measure)}"
    if drawn:
        ends = (level(end, measure) for end in (min(drawn), max(drawn)))
        said += f"; {words.amount(len(drawn), 'draw')} of as many random experts by {' to '.join(ends)}"
    return f"{said}. {verdict(row, name)}{others(own, by, group, but=not row['finding'])}"


def verdict(row: Row, where: str) -> str:
    """Whether it is a finding, and if not why; `where` names the prompts."""
    if row["finding"]:
        return f"That is a finding on {where}: its interval lies beyond 0 and beyond every control's."
    return f"That is no finding on {where}: {row['why']}."


def others(own: dict[str, Row], by: str | None, group: str, *, but: bool) -> str:
    """Where else the effect is a finding; `but` where it is none on the group."""
    found = [
        name
        for name, row in own.items()
        if row["finding"] and name not in (group, "all") and " − " not in name
    ]
    if not found:
        return ""
    named = words.listing(words.value_name(by or "", name) for name in found)
    return (
        f" Taken alone, {named} {'does' if len(found) == 1 else 'do'} show one."
        if but
        else f" Also on {named}."
    )


def number(row: Row, measure: str) -> str:
    """A change with its interval, where it has one (`units`)."""
    if not (math.isfinite(row["low"]) and math.isfinite(row["high"])):
        return level(row["change"], measure)
    change, low, high = (level(row[name], measure) for name in ("change", "low", "high"))
    return f"{change} (95 % {low} to {high})"


def level(change: float, measure: str) -> str:
    """A change in the unit of its measure."""
    if in_points(measure):
        return words.points(change)
    if measure in PERCENT:
        return words.percent(change, signed=True)
    return f"{change:{format_of(measure)}}".replace("-", "−")


def dose(table: pa.Table, by: str | None) -> str:
    """Effect and side effect at the strongest dose."""
    rows = [row for row in table.to_pylist() if row["draw"] is None]
    most = max(row["dose"] for row in rows)
    parts = []
    for role in ("effect", "side effect"):
        row = next(one for one in rows if one["dose"] == most and one["role"] == role)
        group = (
            row["group"] if row["group"] in ("all", "others") else words.value_name(by or "", row["group"])
        )
        noun = NOUNS.get(row["measure"], row["measure"])
        parts.append(f"the {role} on {group} is {noun} {number(row, row['measure'])}")
    return f"At dose {most:g} {parts[0]}, {parts[1]}. Grey points: random experts of the same layers."


def beside(table: pa.Table, measure: str, where: str) -> str:
    """How other evaluations differ from the first, in the words of the paired difference."""
    first, *others = table.to_pylist()
    noun = NOUNS.get(measure, f"the rate of {measure.removeprefix('behaviour: ')}")
    said = [f"On {where}, {first['evaluation']} changes {noun} by {number(first, measure)}."]
    for row in others:
        text = f"{row['evaluation']}: {number(row, measure)}"
        if row["not_paired"]:
            said.append(f"{text}; not comparable prompt by prompt ({row['not_paired']}).")
            continue
        names = {"change": "difference", "low": "difference_low", "high": "difference_high"}
        paired = {name: row[key] for name, key in names.items()}
        said.append(f"{text}; prompt by prompt it differs from the first by {number(paired, measure)}.")
    return " ".join([*said, "Grey: the range of each one's random controls."])

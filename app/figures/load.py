"""What a routing map shows of the `load` view: the measures, and the cards under the pointer."""

from __future__ import annotations

from dataclasses import dataclass

from .routing_map import Hover


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What the colour of a cell means."""

    name: str
    label: str
    """For legends and sentences; docs/methods/counting.md defines it by this name."""
    format: str
    """d3 format of a value."""
    axis_format: str
    """d3 format of a round value, for legends."""


MEASURES = {
    measure.name: measure
    for measure in (
        Measure(name="share", label="share of tokens", format=".1%", axis_format=".0%"),
        Measure(name="weight", label="mean gate weight", format=".3f", axis_format=".2f"),
        Measure(name="probability", label="mean probability", format=".3f", axis_format=".2f"),
    )
}

HOVER = (
    Hover(column="share", title="share of tokens", format=".2%"),
    Hover(column="chance", title="even routing would give", format=".2%"),
    Hover(column="count", title="tokens that chose it", format=",d"),
    Hover(column="tokens", title="tokens in all", format=",d"),
    Hover(column="mean_weight", title="gate weight when chosen", format=".3f"),
    Hover(column="mean_probability", title="mean probability", format=".4f"),
)


def difference_hover(measure: str, name_a: str, name_b: str) -> tuple[Hover, ...]:
    """The hover card of a difference."""
    form = MEASURES[measure].format
    unit = ", percentage points" if measure == "share" else ""
    return (
        Hover(column="a", title=name_a, format=form),
        Hover(column="b", title=name_b, format=form),
        Hover(column="value", title=f"difference{unit}", format="+" + form),
        Hover(column="tokens_a", title=f"tokens, {name_a}", format=",d"),
        Hover(column="tokens_b", title=f"tokens, {name_b}", format=",d"),
    )

"""How far two routings agree, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ...store.compare.tokens import FEWEST
from ...store.noise import Variation
from ..text import words


def within(row: Mapping[str, Any], name: str) -> str:
    """`12.5 % (11.1 % to 14 %)`."""
    if row[f"{name}_low"] is None:
        return words.percent(row[name])
    return f"{words.percent(row[name])} ({words.percent(row[f'{name}_low'])} to {words.percent(row[f'{name}_high'])})"


def _certainty(overall: Mapping[str, Any]) -> str:
    over = words.amount(overall["prompts"], "prompt")
    if overall["flip_rate_low"] is None:
        return f"{over}: too few for intervals."
    return f"In brackets: 95 % intervals over {over}."


def headline(overall: Mapping[str, Any], name_a: str, name_b: str) -> str:
    """The whole comparison in a sentence, from the row of `agreement-overall`."""
    return (
        f"{name_a} and {name_b} chose other experts in {within(overall, 'flip_rate')} of "
        f"{words.amount(overall['decisions'], 'routing decision')} "
        f"({words.amount(overall['tokens'], 'token')} × {words.amount(overall['layers'], 'layer')}); "
        f"{within(overall, 'tokens_flipped')} of the tokens have another set of experts in at least one layer. "
        + _certainty(overall)
    )


def by_layer(table: pa.Table) -> str:
    """Where most flips are, and what the sets still share; from the view `agreement`."""
    rows = table.to_pylist()
    if not rows:
        return "No token of both traces passed a router here."
    most, least = (pick(rows, key=lambda row: row["flip_rate"]) for pick in (max, min))
    if most["flip_rate"] == 0:
        return f"No set of experts differs in {words.amount(len(rows), 'layer')}."
    text = (
        f"Most sets change in layer {most['layer']}: {within(most, 'flip_rate')}; fewest in layer {least['layer']}: "
        f"{words.percent(least['flip_rate'])}. In layer {most['layer']} the two sides share "
        f"{words.percent(most['overlap'])} of a token's experts; two even, independent choices would share "
        f"{words.percent(most['chance'])}."
    )
    if most["gate_distance"] is not None:
        text += f" {words.percent(most['gate_distance'])} of the gate weight lies elsewhere."
    return text


def through_layers(table: pa.Table) -> str:
    """Where the first flip is, and whether a flip leads to the next; from the view `agreement-tokens`."""
    rows = table.to_pylist()
    if not rows or not any(row["first_flips"] for row in rows):
        return "No token has a flip."
    first = max(rows, key=lambda row: row["first_flips"])
    text = (
        f"The first flip of a token is most often in layer {first['layer']} ({words.percent(first['first_share'])} of "
        "the tokens)."
    )
    known = [row for row in rows if min(row["earlier"], row["unflipped"]) >= FEWEST]
    if known:
        last = known[-1]
        text += (
            f" In layer {last['layer']}, {words.percent(last['after_earlier'])} of the tokens with an earlier flip "
            f"flip too, and {words.percent(last['after_none'])} of those without."
        )
    return text


def margins(table: pa.Table) -> str:
    """Whether flips happen where the choice was close; from the view `agreement-margin` of one layer."""
    rows = table.to_pylist()
    if not rows:
        return "No token's margin is known here."
    first, last = rows[0], rows[-1]
    return (
        f"In layer {first['layer']}, {within(first, 'flip_rate')} of the tenth with the closest choices flip (margin "
        f"up to {first['margin_to']:.3g}), and {within(last, 'flip_rate')} of the tenth with the clearest."
    )


def exchange(table: pa.Table) -> str:
    """The most frequent exchange; from the view `agreement-experts` of one layer."""
    if not table.num_rows:
        return "No expert was replaced by another."
    row = table.slice(0, 1).to_pylist()[0]
    return (
        f"Most often expert {row['from_expert']} was replaced by expert {row['to_expert']}: {_times(row['count'])}, "
        f"{words.percent(row['share'])} of its {words.amount(row['uses'], 'use')} in layer {row['layer']}."
    )


def _times(count: float) -> str:
    """`once`, `3 times`, `2.5 times`: where several experts came for one, each has a part."""
    return "once" if count == 1 else f"{count:,.4g} times"


def exchanges_of(table: pa.Table, layer: int, expert: int, *, most: int = 3) -> str:
    """What replaced one expert, and what it replaced; from the view `agreement-experts` of its layer."""
    rows = table.to_pylist()
    left = [(row["to_expert"], row["count"]) for row in rows if row["from_expert"] == expert]
    came = [(row["from_expert"], row["count"]) for row in rows if row["to_expert"] == expert]
    name = f"expert {expert} of layer {layer}"
    if not left and not came:
        return f"Paired tokens: {name} was neither replaced by another expert nor replaced one."

    def told(pairs: list[tuple[int, float]]) -> str:
        named = [f"{other} ({_times(count)})" for other, count in pairs[:most]]
        more = sum(count for _, count in pairs[most:])
        return ", ".join([*named, *([f"others ({_times(more)})"] if more else [])])

    parts = [f"was replaced by {told(left)}"] if left else []
    parts += [f"replaced {told(came)}"] if came else []
    return f"Paired tokens: {name} {' and '.join(parts)}."


CAUSES = {
    "repeat": "repeating the run",
    "batch": "another number of prompts a batch",
    "threads": "another number of threads",
    "attention": "another implementation of attention",
    "dtype": "another precision",
}


def noise(floor: list[Variation], flip_rate: float | None) -> str:
    """What rounding alone changes, beside what was found."""
    if not floor:
        return ""
    parts = [f"{CAUSES.get(one.cause, one.cause)} {words.percent(one.set_share)}" for one in floor]
    text = f"Of this model's decisions, the arithmetic alone changes by {words.listing(parts, most=9)}"
    below = [
        CAUSES.get(one.cause, one.cause)
        for one in floor
        if flip_rate is not None and flip_rate <= one.set_share
    ]
    return (
        f"{text}; the difference here is no larger than that by {words.listing(below)}."
        if below
        else f"{text}."
    )


def attribution(table: pa.Table) -> str:
    """How much of the difference the choice of experts carries; from `Attribution.table`."""
    rows = {row["which"]: row for row in table.to_pylist()}
    replayed = rows["A with B's routing"]
    if "B" not in rows:
        return (
            f"Over {words.amount(replayed['tokens'], 'token')} of prompts and completions, A's next-token "
            f"distributions move by {replayed['kl']:.3g} nats (KL) when B's routing is replayed in A. Perplexity: A "
            f"{rows['A']['perplexity']:.4g}, A with B's routing {replayed['perplexity']:.4g}."
        )
    b = rows["B"]
    if not b["kl"]:
        return (
            f"Over {words.amount(b['tokens'], 'token')} of prompts and completions (generated tokens are not "
            "scored), A and B give the same next-token distributions: there is nothing to attribute."
        )
    return (
        f"Over {words.amount(b['tokens'], 'token')} of prompts and completions, B's next-token distributions lie "
        f"{b['kl']:.3g} nats (KL) from A's, those of A with B's routing replayed {replayed['kl']:.3g} nats: "
        f"the choice of experts carries {within(replayed, 'share')} of the difference. "
        f"Perplexity: A {rows['A']['perplexity']:.4g}, B {b['perplexity']:.4g}, A with B's routing "
        f"{replayed['perplexity']:.4g}."
    )

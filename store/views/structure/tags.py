"""Specialisation by a tag of the prompts: language, group, domain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.resonance.significance import benjamini_hochberg
from ....kernels.statistics.bootstrap import interval_of_enough
from ....kernels.structure import specialisation_spread, tag_information
from ...errors import StoreError, UnknownColumn
from ...notes import with_notes
from ...read.arrays import sum_rows
from ...read.group_sums import GroupSums
from ...read.selection import group_column
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..chance import even_share
from ..experts.contexts import check_expert
from ..options import INTERVALS, MORE_INTERVALS, Intervals
from ..registry import view

FLOOR = 1e-5


@view("specialisation")
def specialisation(
    trace: TraceRows,
    *,
    by: str,
    layer: int | None = None,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """How unevenly each expert is used over the values of a tag.

    Args:
        by: a column of the prompts (language, group, ...) or a tag.
    Returns:
        layer, stream, expert, spread (sample standard deviation / mean of its rates over the values; values with a
        rate of at most 1e-5 are left out), values (that are counted), mean_share, chance = k / E, most (the value with
        the largest share), most_share, least, least_share; see docs/methods/structure.md.
    """
    rows: dict[str, list[Any]] = {name: [] for name in _SPREAD.names}
    source = trace.sums_by(by, tokens.where)
    names, group_P = groups_of(source, by)
    for spec in trace.select_routers(layer, stream):
        tokens_G, share_GE, there_G = shares_of(source, spec.layer, stream, group_P, len(names), tokens)
        if not there_G.any():
            continue
        known = np.flatnonzero(there_G)
        rates = share_GE[known]
        most, least = known[rates.argmax(0)], known[rates.argmin(0)]
        experts = np.arange(spec.num_experts)
        rows["layer"] += [spec.layer] * spec.num_experts
        rows["stream"] += [spec.stream] * spec.num_experts
        rows["expert"] += experts.tolist()
        rows["spread"] += specialisation_spread(rates, floor=FLOOR).tolist()
        rows["values"] += (rates > FLOOR).sum(0).tolist()
        rows["mean_share"] += rates.mean(0).tolist()
        uses = round(float(tokens_G @ share_GE.sum(1)))
        rows["chance"] += [even_share(spec, uses, int(tokens_G.sum()))] * spec.num_experts
        for name, at in (("most", most), ("least", least)):
            rows[name] += [names[g] for g in at]
            rows[f"{name}_share"] += share_GE[at, experts].tolist()
    return with_notes(pa.table(rows, schema=_SPREAD), [tokens.note()])


_SPREAD = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("expert", pa.int32()), ("spread", pa.float64())],
        *[("values", pa.int32()), ("mean_share", pa.float64()), ("chance", pa.float64())],
        *[("most", pa.string()), ("most_share", pa.float64())],
        *[("least", pa.string()), ("least_share", pa.float64())],
    ]
)


@view("tag-information")
def tag_information_view(
    trace: TraceRows,
    *,
    by: str,
    layer: int | None = None,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
    permutations: int = 200,
    seed: int = 0,
) -> pa.Table:
    """How much a tag of the prompts says of the experts that their tokens use, by layer, beside exchanged tags.

    Args:
        by: a column of the prompts (language, group, ...) or a tag; prompts without a value are left out.
        permutations, seed: exchanges of the tag between prompts.
    Returns:
        layer, stream, information (nats), chance and high (mean and 95 % quantile over the exchanges), p_value,
        q_value (Benjamini–Hochberg over the layers), entropy (of the layer's shares), share = (information − chance) /
        (entropy − chance), prompts, values.
    """
    group_P = groups_of(trace, by)[1]
    records = []
    for spec in trace.select_routers(layer, stream):
        sums = trace.rollup_arrays(spec.layer, spec.stream, tokens=tokens)
        tag_P = group_P[sums.prompt_index]
        if len(np.unique(tag_P[tag_P >= 0])) < 2:
            continue
        found = tag_information(sums.count, tag_P, permutations, seed)
        left = float(found.entropy - found.chance)
        records.append(
            {
                "layer": spec.layer,
                "stream": spec.stream,
                **{name: float(getattr(found, name)) for name in found._fields},
                "share": float(found.information - found.chance) / left if left > 0 else 0.0,
                "prompts": int((tag_P >= 0).sum()),
                "values": len(np.unique(tag_P[tag_P >= 0])),
            }
        )
    q = benjamini_hochberg([record["p_value"] for record in records]) if records else []
    for record, value in zip(records, q, strict=True):
        record["q_value"] = float(value)
    return with_notes(pa.Table.from_pylist(records, schema=_INFORMATION), [tokens.note()])


_INFORMATION = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string())],
        *[(name, pa.float64()) for name in ("information", "chance", "high", "p_value", "q_value")],
        *[
            ("entropy", pa.float64()),
            ("share", pa.float64()),
            ("prompts", pa.int64()),
            ("values", pa.int64()),
        ],
    ]
)


@view("expert-shares")
def expert_shares(
    trace: TraceRows,
    *,
    layer: int,
    expert: int,
    by: str,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
    intervals: Intervals = MORE_INTERVALS,
) -> pa.Table:
    """Share of the tokens of each value of a tag that choose one expert, with intervals over prompts.

    Args:
        by: a column of the prompts (language, group, ...) or a tag.
    Returns:
        [by], share (of its tokens), low, high (95 % bootstrap over its prompts; null below 5), chance = k / E,
        tokens, count, prompts; largest share first.
    """
    check_expert(trace, layer, stream, expert)
    if by not in ("language", "group") and by not in trace.tags():
        trace.groups(by)  # says which columns there are
    spec = trace.router(layer, stream)
    names, group_P = groups_of(trace, by)
    sums = trace.rollup_arrays(layer, stream, tokens=tokens)
    floats = [(name, pa.float64()) for name in ("share", "low", "high", "chance")]
    own = [*floats, *((name, pa.int64()) for name in ("tokens", "count", "prompts"))]
    shown = group_column(by, [name for name, _ in own])
    group_R, count_R = group_P[sums.prompt_index], sums.count[:, expert]
    chance = even_share(spec, int(sums.count.sum()), int(sums.tokens.sum()))
    records = []
    for number, name in enumerate(names):
        of = group_R == number
        if not of.any():
            continue
        found = interval_of_enough(
            count_R[of] / sums.tokens[of],
            weights=sums.tokens[of],
            resamples=intervals.resamples,
            seed=intervals.seed,
        )
        ends = {"low": float(found.low), "high": float(found.high)}
        records.append(
            {
                shown: name,
                "share": float(found.point),
                **{key: value if np.isfinite(value) else None for key, value in ends.items()},
                "chance": chance,
                "tokens": int(sums.tokens[of].sum()),
                "count": int(count_R[of].sum()),
                "prompts": int(of.sum()),
            }
        )
    records.sort(key=lambda record: (-record["share"], record[shown]))
    schema = pa.schema([(shown, pa.string()), *own])
    notes = [intervals.note("prompts"), tokens.note()]
    return with_notes(pa.Table.from_pylist(records, schema=schema), notes)


@view("tag-experts")
def tag_experts(
    trace: TraceRows,
    *,
    by: str,
    value: str,
    layer: int | None = None,
    limit: int = 20,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
    intervals: Intervals = INTERVALS,
) -> pa.Table:
    """The experts that the prompts of one value of a tag use more than all others do: what fires on it.

    Args:
        by, value: a column of the prompts or a tag, and the value, e.g. language and ja.
        limit: how many, largest difference of shares first; 0 for all.
    Returns:
        layer, stream, expert, share (of the value's tokens), low, high (95 % bootstrap over its prompts; null below
        5), elsewhere (share of all other tokens of prompts with a value), difference, lift = share / elsewhere (null
        where elsewhere is 0), chance = k / E, prompts. The largest of many differences are shown: for a test see
        `resonance`.
    """
    names, group_P = groups_of(trace, by)
    if value not in names:
        raise UnknownColumn(f"no prompt has {by} {value!r}; there is: {', '.join(names[:20])}")
    found = []
    for spec in trace.select_routers(layer, stream):
        sums = trace.rollup_arrays(spec.layer, spec.stream, tokens=tokens)
        tag_R = group_P[sums.prompt_index]
        mine, other = tag_R == names.index(value), (tag_R >= 0) & (tag_R != names.index(value))
        if not mine.any():
            continue
        share_E = sums.count[mine].sum(0) / sums.tokens[mine].sum()
        elsewhere_E = sums.count[other].sum(0) / max(sums.tokens[other].sum(), 1)
        best = np.argsort(elsewhere_E - share_E, kind="stable")[: limit or None]
        chance = even_share(spec, int(sums.count.sum()), int(sums.tokens.sum()))
        found += [
            (spec, int(e), share_E[e], elsewhere_E[e], sums.count[mine, e], sums.tokens[mine], chance)
            for e in best
        ]
    found.sort(key=lambda row: (row[3] - row[2], row[0].layer, row[1]))
    records = []
    for spec, expert, share, elsewhere, count_R, tokens_R, chance in found[: limit or None]:
        interval = interval_of_enough(
            count_R / tokens_R, weights=tokens_R, resamples=intervals.resamples, seed=intervals.seed
        )
        ends = {"low": float(interval.low), "high": float(interval.high)}
        records.append(
            {
                "layer": spec.layer,
                "stream": spec.stream,
                "expert": expert,
                "share": share,
                **{name: end if np.isfinite(end) else None for name, end in ends.items()},
                "elsewhere": elsewhere,
                "difference": share - elsewhere,
                "lift": share / elsewhere if elsewhere else None,
                "chance": chance,
                "prompts": len(tokens_R),
            }
        )
    notes = [intervals.note("prompts"), tokens.note()]
    return with_notes(pa.Table.from_pylist(records, schema=_OF_TAG), notes)


_OF_TAG = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("expert", pa.int32()), ("share", pa.float64())],
        *[(name, pa.float64()) for name in ("low", "high", "elsewhere", "difference", "lift", "chance")],
        ("prompts", pa.int64()),
    ]
)


def groups_of(source: TraceRows | GroupSums, by: str) -> tuple[list[str], np.ndarray]:
    """Values of a tag, and the number of each prompt's; -1 for a prompt without one."""
    groups = source.groups(by)
    names = [name for name in groups.names if name is not None]
    if not names:
        raise StoreError(f"no prompt has a value of {by!r}")
    return names, np.where(groups.group_P < len(names), groups.group_P, -1)


def shares_of(
    source: TraceRows | GroupSums,
    layer: int,
    stream: str,
    group_P: np.ndarray,
    num_groups: int,
    tokens: TokenFilter,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens (G,), shares (G, E), and which groups have tokens (G,)."""
    rows = source.rollups(layer, stream, sums=("count",))
    group_R = np.where(tokens.rows(source, rows), group_P[rows.prompt_R], -1)
    tokens_G = sum_rows(rows.tokens_R, group_R, num_groups, np.int64)
    count_GE = rows.grouped("count", group_R, num_groups)
    assert count_GE is not None
    return tokens_G, count_GE / np.maximum(tokens_G, 1)[:, None], tokens_G > 0

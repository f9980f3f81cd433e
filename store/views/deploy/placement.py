"""How evenly placements load the devices, on prompts that they were not fitted on, and what goes between devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.dispatch import busiest_over_mean, dispatch_matrix, local_share, micro_batch_skew
from ....kernels.placement import resize_moves
from ....kernels.statistics.jackknife import deal, jackknife_interval
from ...errors import DecisionRefused
from ...notes import with_notes
from ...read.arrays import sum_rows
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..options import DECODER, HALVES, Routers, Split
from ..registry import view
from .halves import halves, refusals
from .placements import METHODS, Cluster, Loads, Placement, loads, placements

EVENED = 0.15
"""Seconds of the program that evens loads after a change of devices, for each layer."""
LIMIT = "A trace gives loads and traffic between devices, not times."

_SCHEMA = pa.schema(
    [
        *[
            ("method", pa.string()),
            ("layer", pa.int32()),
            ("stream", pa.string()),
            ("balancedness", pa.float64()),
        ],
        *[
            ("low", pa.float64()),
            ("high", pa.float64()),
            ("fitted", pa.float64()),
            ("remote_share", pa.float64()),
        ],
        *[("largest_link", pa.float64()), ("gap", pa.float64()), ("places", pa.int32())],
    ]
)


@view("placement")
def placement(
    trace: TraceRows,
    *,
    devices: int = 8,
    replicas: int = 0,
    nodes: int = 1,
    groups: int | None = None,
    methods: str = ",".join(METHODS),
    split: Split = HALVES,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    seconds: float = 1.0,
) -> pa.Table:
    """Placements of experts on devices side by side: how evenly loaded, and how much leaves its device.

    Args:
        devices, nodes: of the cluster.
        replicas: extra slots for copies of busy experts; only EPLB uses them.
        groups: groups of experts that the hierarchical EPLB keeps within a node; as many as nodes by default.
        methods: of contiguous, random (mean of 20), greedy, eplb-global, eplb-hierarchical, milp (arXiv 2502.06643).
        seconds: of the program for each layer.
    Returns:
        method, layer (null: all layers, each waiting for its busiest device), stream, balancedness = mean / largest
        device load on the prompts that were held out, low, high (95 %, jackknife over groups of prompts), fitted
        (the same on the prompts of the fit), remote_share (of what goes from a layer to the next, null for counts
        only), largest_link (share over the busiest directed link), gap (of the program: 0 optimal, null not proven),
        places.
    """
    given, note = given_loads(trace, routers, tokens, split)
    cluster = Cluster(devices=devices, replicas=replicas, nodes=nodes, groups=groups)
    found = placements(
        given, cluster, [name.strip() for name in methods.split(",")], seed=split.seed, seconds=seconds
    )
    return with_notes(
        placement_table(given, found, devices, split.seed), notes_of_placement(given, cluster, note, tokens)
    )


def notes_of_placement(given: Loads, cluster: Cluster, note: str, tokens: TokenFilter) -> list[str]:
    """What must be known beside a comparison of placements."""
    notes = [note, LIMIT, tokens.note()]
    if given.paths is None:
        notes.append("Counts only, or one layer: layer-to-layer traffic is unknown.")
    elif given.paths.note:
        notes.append(given.paths.note)
    if cluster.replicas:
        notes.append(
            f"Only EPLB uses the extra slots ({cluster.replicas}); they take memory that "
            "the other placements don't need."
        )
    if cluster.nodes == 1:
        notes.append("With one node the two policies of EPLB are the same.")
    if cluster.groups is not None and cluster.groups % cluster.nodes:
        wrong = f"{cluster.groups} groups do not divide over {cluster.nodes} nodes"
        notes.append(f"{wrong}, so the hierarchical EPLB is the global one, as in DeepSeek's code.")
    return notes


def placement_table(given: Loads, found: list[Placement], devices: int, seed: int = 0) -> pa.Table:
    """The rows of the view `placement` for placements that were made."""
    between = given.transitions(given.report_P)
    rows = [row for one in found for row in _rows(given, one, devices, between, seed)]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def given_loads(trace: TraceRows, routers: Routers, tokens: TokenFilter, split: Split) -> tuple[Loads, str]:
    """What placements need of a trace, and the note on how its prompts were split."""
    parts = halves(trace, tokens, split.fit_where, split.seed)
    return loads(trace, routers.numbers(trace), routers.stream, tokens, parts), parts.note


def _rows(
    given: Loads, one: Placement, devices: int, between: np.ndarray | None, seed: int
) -> list[dict[str, Any]]:
    draws = one.draws or [one.physical_LR]
    rows = []
    base = {"method": one.method, "stream": given.stream, "places": one.physical_LR.shape[1]}
    links = [_links(draw, given.experts, devices, between) for draw in draws]
    whole = _balance(given, draws, devices, list(range(len(given.layers))), seed)
    gaps = one.gap_L if one.gap_L is not None else np.full(len(given.layers), np.nan)
    rows.append(base | {"layer": None, **whole, **_mean_link(links, None), "gap": _number(gaps.max())})
    for at, layer in enumerate(given.layers):
        link = _mean_link(links, at) if at + 1 < len(given.layers) else {}
        balance = _balance(given, draws, devices, [at], seed)
        rows.append(base | {"layer": layer, **balance, **link, "gap": _number(gaps[at])})
    return rows


def _balance(
    given: Loads, draws: list[np.ndarray], devices: int, at: list[int], seed: int
) -> dict[str, float | None]:
    """Over some layers: sum of mean loads over the sum of largest ones, as each layer waits for its busiest device."""
    shares = [[_share(draw[layer], given.experts, devices) for layer in at] for draw in draws]

    def of(count_LXE: list[np.ndarray]) -> np.ndarray:
        each = []
        for matrices in shares:
            loads = [count @ matrix for count, matrix in zip(count_LXE, matrices, strict=True)]
            mean, top = (
                np.sum([getattr(load, kind)(-1) for load in loads], axis=0) for kind in ("mean", "max")
            )
            each.append(np.divide(mean, top, out=np.zeros_like(mean), where=top > 0))
        return np.mean(each, axis=0)

    report = [given.count_LPE[layer][given.report_P] for layer in at]
    group_P = deal(len(report[0]), seed=seed)
    groups = int(group_P.max(initial=0)) + 1
    total = [count.sum(0) for count in report]
    without = [
        whole - sum_rows(count, group_P, groups, np.int64) for whole, count in zip(total, report, strict=True)
    ]
    # A bootstrap would make devices look less even than they are: what is drawn twice is a busier device.
    found = jackknife_interval(of(total), of(without))
    known = groups > 1  # One prompt left out leaves nothing: there is no interval.
    return {
        "balancedness": float(found.point),
        "low": _number(max(0.0, float(found.low))) if known else None,
        "high": _number(min(1.0, float(found.high))) if known else None,
        "fitted": float(of([given.count_LPE[layer][given.fit_P].sum(0) for layer in at])),
    }


def _share(physical_R: np.ndarray, experts: int, devices: int) -> np.ndarray:
    """(E, G) share of each expert's load that goes to each device."""
    out = np.zeros((experts, devices))
    np.add.at(out, (physical_R, np.arange(len(physical_R)) * devices // len(physical_R)), 1)
    return out / np.maximum(out.sum(1, keepdims=True), 1)


def _links(draw_LR: np.ndarray, experts: int, devices: int, between: np.ndarray | None) -> np.ndarray | None:
    """(L − 1, G, G) share of what goes from each layer to the next between each pair of devices.

    Copies of an expert share its traffic evenly, whatever lies nearer: an engine may do better.
    """
    if between is None:
        return None
    shares = [_share(row, experts, devices) for row in draw_LR]
    links = np.stack([a.T @ t @ b for t, a, b in zip(between, shares, shares[1:], strict=False)])
    return links / np.maximum(links.sum((1, 2), keepdims=True), 1)


def _mean_link(links: list[np.ndarray | None], at: int | None) -> dict[str, float | None]:
    remote, largest = [], []
    for link_LGG in links:
        if link_LGG is None:
            return {"remote_share": None, "largest_link": None}
        chosen = link_LGG if at is None else link_LGG[at : at + 1]
        away = chosen * ~np.eye(chosen.shape[1], dtype=bool)
        remote.append(away.sum((1, 2)).mean())
        largest.append(away.max((1, 2)).mean())
    return {"remote_share": float(np.mean(remote)), "largest_link": float(np.mean(largest))}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


@view("dispatch", needs=("events",))
def dispatch(
    trace: TraceRows,
    *,
    devices: int = 8,
    method: str = "contiguous",
    per: str = "slot",
    batch_tokens: int = 4096,
    split: Split = HALVES,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """What each device sends to each under a placement, and how unevenly micro-batches load them.

    Args:
        method: of the placement; see the view `placement`.
        per: slot (token and expert) or token (once for each device that a token goes to).
        batch_tokens: consecutive tokens that are one micro-batch.
    Returns:
        layer, stream, from, to, sent, share (of what is sent at the layer), local_share (of the layer), skew (mean over
        micro-batches of the population deviation of expert shares), busiest_over_mean (mean over micro-batches of
        device loads), worst_batch (the largest of them). Sequences are dealt to devices in turn.
    """
    given, note = given_loads(trace, routers, tokens, split)
    (one,) = placements(given, Cluster(devices=devices), [method], seed=split.seed)
    if given.paths is None:
        raise DecisionRefused("dispatch needs two layers or more with events")
    seen = given.paths.of(given.report_P)
    home_T = (np.searchsorted(np.flatnonzero(given.report_P), seen.prompt_T)) % devices
    pieces = []
    for at, layer in enumerate(given.layers):
        device_E = _share(one.physical_LR[at], given.experts, devices).argmax(1)
        with refusals():
            sent = dispatch_matrix(
                seen.ids_TLK[:, at], home_T, device_E, devices, "token" if per == "token" else "slot"
            )
        facts = _batches(seen.ids_TLK[:, at], device_E, devices, batch_tokens)
        source, target = np.divmod(np.arange(devices**2), devices)
        columns = {
            "layer": layer,
            "stream": routers.stream,
            "from": source,
            "to": target,
            "sent": sent.ravel(),
        }
        columns |= {"share": sent.ravel() / max(1, sent.sum()), "local_share": local_share(sent)} | facts
        pieces.append(_table(columns, devices**2))
    dealt = "Sequences are dealt to the devices in turn: an engine with another rule has other local shares."
    return with_notes(pa.concat_tables(pieces), [note, dealt, LIMIT, tokens.note()])


def _batches(ids_TK: np.ndarray, device_E: np.ndarray, devices: int, size: int) -> dict[str, float]:
    experts = len(device_E)
    counts = [
        np.bincount(part[part >= 0], minlength=experts)
        for start in range(0, len(ids_TK), max(1, size))
        if (part := ids_TK[start : start + max(1, size)]).size
    ]
    load_BG = np.stack([np.bincount(device_E, count, devices) for count in counts])
    busiest = busiest_over_mean(load_BG)
    return {
        "skew": float(np.mean(micro_batch_skew(np.stack(counts)))),
        "busiest_over_mean": float(np.mean(busiest)),
        "worst_batch": float(np.max(busiest)),
    }


def _table(columns: dict[str, Any], rows: int) -> pa.Table:
    full = {
        name: value if isinstance(value, np.ndarray) else pa.repeat(pa.scalar(value), rows)
        for name, value in columns.items()
    }
    return pa.table(full)


@view("resize")
def resize(
    trace: TraceRows,
    *,
    devices: int = 8,
    to: str = "2,4,16",
    expert_bytes: float | None = None,
    split: Split = HALVES,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """What-if of more or fewer devices: experts that move from a largest-first placement, and loads before and after.

    Args:
        devices: now.
        to: numbers of devices to look at, e.g. 4,16.
        expert_bytes: size of an expert; from the expert sheet where it is not given.
    Returns:
        devices, new_devices, moves (experts of all layers), experts, moved_bytes (null where the size is unknown),
        balancedness_before, balancedness (on held-out prompts; each layer waits for its busiest device).
    """
    given, note = given_loads(trace, routers, tokens, split)
    (one,) = placements(given, Cluster(devices=devices), ["greedy"], seed=split.seed)
    try:
        sizes = [int(size) for size in str(to).split(",")]
    except ValueError:
        raise DecisionRefused(f"to is {to!r}; write numbers of devices such as 4,16") from None
    now = [_share(row, given.experts, devices).argmax(1) for row in one.physical_LR]
    before = _evenness(given.report_LE, now, devices)
    size = expert_bytes if expert_bytes is not None else expert_size(trace)
    rows = []
    for new in sizes:
        if not 0 < new <= given.experts:
            raise DecisionRefused(
                f"{new} devices are not between 1 and the {given.experts} experts of a layer"
            )
        with refusals():
            found = [
                resize_moves(a, new, load, seconds=EVENED) for a, load in zip(now, given.fit_LE, strict=True)
            ]
        moves = sum(one.moves for one in found)
        after = _evenness(given.report_LE, [one.device for one in found], new)
        rows.append(
            {"devices": devices, "new_devices": new, "moves": moves, "experts": given.experts * len(given.layers)}
            | {"moved_bytes": None if size is None else moves * size, "balancedness_before": before}
            | {"balancedness": after}
        )  # fmt: skip
    kinds = [
        ("devices", pa.int32()),
        ("new_devices", pa.int32()),
        ("moves", pa.int32()),
        ("experts", pa.int32()),
    ]
    kinds += [(name, pa.float64()) for name in ("moved_bytes", "balancedness_before", "balancedness")]
    limit = (
        f"The number of moves is the smallest possible; loads are evened for at most {EVENED} s a layer, so they can "
        "differ a little."
    )
    notes = [note, limit, LIMIT + " The time that an engine takes to resize is not included.", tokens.note()]
    return with_notes(pa.Table.from_pylist(rows, schema=pa.schema(kinds)), notes)


def _evenness(load_LE: np.ndarray, device_LE: list[np.ndarray], devices: int) -> float:
    load_LG = np.stack([np.bincount(a, load, devices) for a, load in zip(device_LE, load_LE, strict=True)])
    return float(load_LG.mean(1).sum() / max(load_LG.max(1).sum(), 1e-300))


def expert_size(trace: TraceRows) -> float | None:
    """Mean bytes of an expert by the expert sheet; None where there is none."""
    from ...expert_sheet import expert_sheet

    sheet = expert_sheet(trace)
    if sheet is None:
        return None
    sizes = [size for size in sheet["bytes"].to_pylist() if size is not None]
    return float(np.mean(sizes)) if sizes else None

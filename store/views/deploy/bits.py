"""How many bits each expert gets: MC-MoE's program beside plain rules and random choices.

The errors come from the expert sheet (rounding to nearest on recorded inputs), the usage from the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.bits import bits_by_rank, mc_moe_cost, solve_bits
from ...deliver.recipes import ExpertBits
from ...errors import DecisionRefused
from ...expert_sheet import expert_sheet
from ...notes import with_notes
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..options import DECODER, HALVES, Routers, Split
from ..registry import view
from .halves import halves, refusals

METHODS = ("mc-moe", "uniform", "usage", "outliers", "block", "random")
LIMIT = "Predicted from rounding to nearest (RTN), not GPTQ; no rounded model was run for it."


@dataclass(frozen=True)
class BitCosts:
    """What each width costs each expert; N experts of all layers, one after another."""

    layer_N: np.ndarray
    expert_N: np.ndarray
    widths: tuple[int, ...]
    fit_NB: np.ndarray
    """MC-MoE's cost on the prompts to fit on."""
    report_NB: np.ndarray
    usage_N: np.ndarray
    outlier_N: np.ndarray | None
    block_N: np.ndarray | None
    modules: dict[int, str | None]
    notes: list[str]

    def error(self, bits_N: np.ndarray, of_NB: np.ndarray) -> float:
        """Sum of costs of an allocation."""
        at = np.searchsorted(self.widths, bits_N)
        return float(of_NB[np.arange(len(bits_N)), at].sum())

    def allocation(self, bits_N: np.ndarray) -> list[ExpertBits]:
        """The bits with the names of modules, for `deliver.recipes`."""
        rows = zip(self.layer_N.tolist(), self.expert_N.tolist(), bits_N.tolist(), strict=True)
        return [ExpertBits(layer, expert, bits, self.modules[layer]) for layer, expert, bits in rows]


def bit_costs(
    trace: TraceRows,
    levels: str,
    *,
    split: Split = HALVES,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
) -> BitCosts:
    """Read what an allocation needs.

    Raises:
        DecisionRefused: no expert sheet, or one without these widths.
    """
    widths = levels_of(levels)
    sheet = expert_sheet(trace)
    hint = f"run `moescope weigh MODEL --trace TRACE --what quantisation,outliers --bits {levels}`"
    if sheet is None:
        raise DecisionRefused(f"the trace has no expert sheet, which holds the errors of rounding; {hint}")
    rows = [row for row in sheet.to_pylist() if row["stream"] == routers.stream]
    parts = halves(trace, tokens, split.fit_where, split.seed)
    pieces, notes = [], [parts.note, LIMIT, tokens.note()]
    for spec in routers.specs(trace):
        layer, stream = spec.layer, spec.stream
        mine = sorted((row for row in rows if row["layer"] == layer), key=lambda row: row["expert"])
        if len(mine) != spec.num_experts or any(
            row["bits"] is None or not set(widths) <= set(row["bits"]) for row in mine
        ):
            raise DecisionRefused(
                f"the expert sheet has no rounding errors at {levels} bits for layer {layer}; {hint}"
            )
        pieces.append(_of_layer(trace, layer, stream, tokens, mine, widths, (parts.fit_P, parts.report_P)))
    if not all(piece["probability"] for piece in pieces):
        notes.append(
            "The trace has no full router probabilities: gate weights after selection stand in for them."
        )
    layer_N = np.concatenate([np.full(len(piece["usage"]), piece["layer"]) for piece in pieces])

    def joined(name: str) -> Any:
        return (
            None
            if any(piece[name] is None for piece in pieces)
            else np.concatenate([p[name] for p in pieces])
        )

    return BitCosts(
        layer_N, np.concatenate([np.arange(len(piece["usage"])) for piece in pieces]), widths, joined("fit"),
        joined("report"), joined("usage"), joined("outlier"), joined("block"),
        {piece["layer"]: trace.router(piece["layer"], routers.stream).experts for piece in pieces}, notes,
    )  # fmt: skip


def levels_of(text: str) -> tuple[int, ...]:
    """Widths such as 2,3,4, rising."""
    try:
        widths = tuple(sorted({int(width) for width in str(text).split(",")}))
    except ValueError:
        widths = ()
    if not widths or not 1 <= widths[0] <= widths[-1] <= 16:
        raise DecisionRefused(f"levels are {text!r}; write bits from 1 to 16 such as 2,3,4")
    return widths


def _of_layer(
    trace: TraceRows, layer: int, stream: str, tokens: TokenFilter, rows: list[dict[str, Any]], widths: tuple[int, ...],
    parts_P: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:  # fmt: skip
    sums = trace.rollup_arrays(layer, stream, tokens=tokens)
    eps = np.array([[row["rtn_error"][row["bits"].index(width)] for width in widths] for row in rows])
    probability = sums.probability_sum if sums.probability_sum is not None else sums.weight_sum
    if probability is None:
        raise DecisionRefused(f"the trace has neither router probabilities nor gate weights at layer {layer}")
    costs = []
    for wanted_P in parts_P:
        mine = wanted_P[sums.prompt_index]
        passed = max(1, int(sums.tokens[mine].sum()))
        usage = sums.count[mine].sum(0) / max(1, sums.count[mine].sum())
        costs.append((usage, mc_moe_cost(usage, probability[mine].sum(0) / passed, eps)))
    outlier = [max(row["outliers"]) if row["outliers"] else None for row in rows]
    block = [row["block_change"] for row in rows]
    return {
        "layer": layer, "usage": costs[0][0], "fit": costs[0][1], "report": costs[1][1],
        "outlier": None if None in outlier else np.array(outlier, np.float64),
        "block": None if None in block else np.array(block, np.float64),
        "probability": sums.probability_sum is not None,
    }  # fmt: skip


def allocate(costs: BitCosts, method: str, budget: float, scope: str = "model", seed: int = 0) -> np.ndarray:
    """(N,) bits of each expert.

    Args:
        budget: mean bits of an expert.
        scope: `layer` (each layer keeps the budget) or `model` (all layers share it).
    Raises:
        DecisionRefused: a budget that can't be met, or what a rule needs is not in the sheet.
    """
    low, high = costs.widths[0], costs.widths[-1]
    if not low <= budget <= high:
        raise DecisionRefused(
            f"a budget of {budget:g} bits an expert can't be met with {', '.join(map(str, costs.widths))} bits: "
            f"name one from {low} to {high}"
        )
    out = np.zeros(len(costs.layer_N), np.int64)
    layers = (
        [np.full(len(out), True)]
        if scope == "model"
        else [costs.layer_N == at for at in np.unique(costs.layer_N)]
    )
    with refusals():
        for mine in layers:
            out[mine] = _RULES[method](costs, mine, budget * mine.sum(), seed)
    return out


def _program(costs: BitCosts, mine: np.ndarray, budget: float, seed: int) -> np.ndarray:
    return solve_bits(costs.fit_NB[mine], budget, costs.widths, ()).bits


def _uniform(costs: BitCosts, mine: np.ndarray, budget: float, seed: int) -> np.ndarray:
    return np.full(mine.sum(), max(width for width in costs.widths if width * mine.sum() <= budget + 1e-9))


def _ranked(score: Callable[[BitCosts], np.ndarray | None], name: str) -> Callable[..., np.ndarray]:
    def rule(costs: BitCosts, mine: np.ndarray, budget: float, seed: int) -> np.ndarray:
        values = score(costs)
        if values is None:
            raise DecisionRefused(f"the expert sheet has no {name}")
        return _two_widths(costs.widths, values[mine], budget)

    return rule


def _two_widths(widths: Sequence[int], score: np.ndarray, budget: float) -> np.ndarray:
    """The two widths around the budget: the wider one for the largest scores."""
    mean = budget / len(score)
    below = max(width for width in widths if width <= mean + 1e-9)
    above = min((width for width in widths if width > below), default=below)
    return np.full(len(score), below) if above == below else bits_by_rank(score, budget, (below, above))


def _random(costs: BitCosts, mine: np.ndarray, budget: float, seed: int) -> np.ndarray:
    return _two_widths(costs.widths, np.random.default_rng(seed).random(mine.sum()), budget)


_RULES: dict[str, Callable[..., np.ndarray]] = {
    "mc-moe": _program,
    "uniform": _uniform,
    "usage": _ranked(lambda costs: costs.usage_N, "usage"),
    "outliers": _ranked(lambda costs: costs.outlier_N, "outliers: weigh with --what outliers"),
    "block": _ranked(lambda costs: costs.block_N, "block importance: weigh with outputs"),
    "random": _random,
}


@view("bits")
def bits(
    trace: TraceRows,
    *,
    budgets: str = "2.5",
    levels: str = "2,3,4",
    scope: str = "model",
    draws: int = 20,
    split: Split = HALVES,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """Bit allocations side by side: their predicted error on held-out prompts.

    Args:
        budgets: mean bits of an expert, one or several: 2,2.5,3 gives a curve.
        levels: bits that an expert may have.
        scope: model (all layers share the budget) or layer (each keeps it).
        draws: random allocations of the same budget.
    Returns:
        method (mc-moe: the program of arXiv 2410.06270; uniform; usage, outliers, block: the rules of arXiv 2406.08155;
        random), budget, mean_bits, error (sum of φ · w^1.5 · ε on held-out prompts), relative (to random), low, high
        (of random draws: the central 95 %), fitted (the error on the prompts of the fit).
    """
    costs = bit_costs(trace, levels, split=split, routers=routers, tokens=tokens)
    rows = []
    for budget in _numbers(budgets):
        random = [allocate(costs, "random", budget, scope, split.seed + draw) for draw in range(draws)]
        errors = [costs.error(bits_N, costs.report_NB) for bits_N in random]
        base = float(np.mean(errors))
        for method in METHODS:
            if (method == "outliers" and costs.outlier_N is None) or (
                method == "block" and costs.block_N is None
            ):
                continue
            if method == "random":
                ends = np.quantile(errors, [0.025, 0.975]).tolist()
                fitted = float(np.mean([costs.error(one, costs.fit_NB) for one in random]))
                error, mean = base, float(np.mean([one.mean() for one in random]))
            else:
                found = allocate(costs, method, budget, scope, split.seed)
                error, mean, ends = costs.error(found, costs.report_NB), float(found.mean()), [None, None]
                fitted = costs.error(found, costs.fit_NB)
            row = {"method": method, "budget": budget, "mean_bits": mean, "error": error}
            row |= {
                "relative": error / base if base else 1.0,
                "low": ends[0],
                "high": ends[1],
                "fitted": fitted,
            }
            rows.append(row)
    kinds = [("method", pa.string()), *[(name, pa.float64()) for name in list(rows[0])[1:]]]
    return with_notes(pa.Table.from_pylist(rows, schema=pa.schema(kinds)), costs.notes)


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in str(text).split(",")]
    except ValueError:
        raise DecisionRefused(f"budgets are {text!r}; write mean bits such as 2.5 or 2,2.5,3") from None

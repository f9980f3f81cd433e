"""The study of decisions on the sample: `python docs/studies/deploy.py` prints the tables of deploy.md.

Everything is fitted on a random half of the texts (translations stay together) and reported on the other half, for
five ways to split them (about two minutes on one core). Then `deploy_models` makes the model smaller.
"""

from __future__ import annotations

import deploy_models
import numpy as np

from moescope.store import Trace, open_trace
from moescope.store.library import sample_dir

SEEDS = range(5)
DEVICES, COPIES, NODES = 8, 8, 2


def table(rows: list[list[str]]) -> None:
    """A Markdown table; the first row is its head."""
    for at, row in enumerate(rows):
        print("| " + " | ".join(row) + " |")
        if at == 0:
            print("|" + "---|" * len(row))
    print()


def over_seeds(
    trace: Trace, view: str, key: list[str], value: str, **params: object
) -> dict[tuple, np.ndarray]:
    """Values of a view's rows by key, one for each split of the texts."""
    found: dict[tuple, list[float]] = {}
    for seed in SEEDS:
        for row in trace.view(view, seed=seed, **params).to_pylist():
            if row.get("layer", None) is None or "layer" in key:
                found.setdefault(tuple(row[name] for name in key), []).append(row[value])
    return {name: np.array(values, float) for name, values in found.items()}


def spread(values: np.ndarray, percent: bool = True) -> str:
    """Mean, least and largest of the splits."""
    form = "{:.1%}" if percent else "{:.4f}"
    return f"{form.format(values.mean())} ({form.format(values.min())} to {form.format(values.max())})"


def placements(trace: Trace) -> None:
    """Balancedness of six placements, without and with extra slots for EPLB, and what changes the device."""
    for copies in (0, COPIES):
        print(f"### {DEVICES} devices, {NODES} nodes, {copies} extra slots\n")
        ask = {"devices": DEVICES, "nodes": NODES, "replicas": copies, "seconds": 0.5}
        held = over_seeds(trace, "placement", ["method"], "balancedness", **ask)
        fitted = over_seeds(trace, "placement", ["method"], "fitted", **ask)
        remote = over_seeds(trace, "placement", ["method"], "remote_share", **ask)
        rows = [["placement", "held-out balancedness", "on the prompts of the fit", "changes the device"]]
        rows += [
            [name[0], spread(held[name]), f"{fitted[name].mean():.1%}", f"{remote[name].mean():.1%}"]
            for name in held
        ]
        table(rows)


def one_language(trace: Trace) -> None:
    """A placement fitted on one language, reported on all others."""
    print("### Fitted on English alone, reported on the other languages\n")
    whole = trace.view("placement", devices=DEVICES, fit_where={"language": ["en"]}, seconds=0.5).to_pylist()
    rows = [["placement", "on the other languages", "on English"]]
    rows += [
        [r["method"], f"{r['balancedness']:.1%}", f"{r['fitted']:.1%}"] for r in whole if r["layer"] is None
    ]
    table(rows)


def caches(trace: Trace) -> None:
    """Hit rates by policy and slots."""
    found = over_seeds(trace, "offload", ["policy", "slots"], "hit_rate", slots="4,8,16")
    rows = [["policy", "4 slots a layer", "8", "16"]]
    rows += [
        [name, *(spread(found[name, size]) for size in (4, 8, 16))]
        for name in dict.fromkeys(k[0] for k in found)
    ]
    table(rows)
    batches = trace.view("regrouping", batch=8).to_pylist()
    table(
        [
            ["order", "experts of a batch of 8", "share of all"],
            *([row["order"], f"{row['experts_per_batch']:.1f}", f"{row['share']:.1%}"] for row in batches),
        ]
    )


def calibration(trace: Trace) -> None:
    """σ of picked and random sets."""
    rows = [["set", "prompts", "tokens", "σ", "95 % of random sets"]]
    for row in trace.view("calibration-balance", sizes="16,64,128").to_pylist():
        ends = "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
        rows.append([row["set"], str(row["prompts"]), f"{row['tokens']:,.0f}", f"{row['sigma']:.4f}", ends])
    table(rows)


def domains(trace: Trace) -> None:
    """Which experts languages would keep."""
    rows = [r for r in trace.view("kept-overlap", keep=0.5, score="gate").to_pylist() if r["a"] < r["b"]]
    values = np.array([row["overlap"] for row in rows])
    least, most = rows[int(values.argmin())], rows[int(values.argmax())]
    print(
        f"Half of the experts kept by gate weight: two languages share {values.mean():.1%} on average, by chance 50%;"
    )
    for name, row in (("least", least), ("most", most)):
        print(f"{name}: {row['a']} and {row['b']}, {row['overlap']:.1%}")
    for row in trace.view("score-agreement", keep=0.5).to_pylist():
        print(
            f"{row['a']} and {row['b']}: rank correlation {row['spearman']:.3f}, kept by both {row['overlap']:.1%}"
        )


if __name__ == "__main__":
    sample = open_trace(sample_dir() / "trace")
    placements(sample)
    one_language(sample)
    caches(sample)
    calibration(sample)
    domains(sample)
    deploy_models.main()

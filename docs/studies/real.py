"""The numbers of docs/studies/real.md: `python docs/studies/real.py FOLDER`.

FOLDER holds routing that others released, brought into the files that docs/real-routing.md names. It is imported by the
commands that the page shows, held against its authors' own totals, and looked at with moescope's views. Files that
are not there are left out and named. About four minutes on two cores; `--work` keeps the traces.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from moescope.kernels.alignment import routing_divergence
from moescope.kernels.counting import load_imbalance
from moescope.store import Trace, open_trace, sample_dir
from moescope.store.importers import run

LANGUAGES = ["en", "de", "es", "fr", "zh", "ja", "sw", "bn"]
DOMAINS = ["arxiv", "book", "c4", "github", "wikipedia", "tulu"]
BANDS = {"0-7": (0, 8), "8-34": (8, 35), "35-47": (35, 48)}


def grid(trace: Trace, by: str, names: list[str], column: str = "count") -> np.ndarray:
    """(groups, layers, experts) sums, layers in order."""
    table = trace.counts(by=by)
    layers = sorted({spec.layer for spec in trace.routers})
    at_layer = np.searchsorted(layers, np.asarray(table["layer"]))
    at_group = np.array([names.index(name) for name in table[by].to_pylist()])
    found = np.zeros((len(names), len(layers), trace.routers[0].num_experts))
    found[at_group, at_layer, np.asarray(table["expert"])] = np.asarray(table[column].fill_null(0))
    return found


def esft(folder: Path, work: Path) -> dict[str, Any]:
    """DeepSeek-V2-Lite's family: the released scores, local consistency, caches, load."""
    trace = imported("neutral", folder / "esft.parquet", work, experts=64)
    released = json.loads((folder / "esft_released_summary.json").read_text())
    names = sorted(released)
    tokens_G = [int(trace.rollup_arrays(1, where={"group": [name]}).tokens.sum()) for name in names]
    scores = {
        "token_scores": grid(trace, "group", names) / 6,
        "gate_scores": grid(trace, "group", names, "weight_sum"),
    }
    off = 0.0
    compared = 0
    for name, sums in scores.items():
        for group, tokens, ours_LE in zip(names, tokens_G, sums, strict=True):
            theirs_LE = np.array(released[group][name])
            off = max(off, float(np.abs(theirs_LE - ours_LE / tokens).max()))
            compared += theirs_LE.size
    return {
        "events": trace.num_events, "scores compared": compared, "largest difference": off,
        **sequences(trace, caches=True), **load(trace),
    }  # fmt: skip


def sequences(trace: Trace, *, caches: bool) -> dict[str, Any]:
    """Local routing consistency (SRP) at m = 16 and, of a quarter and half of the experts in a cache, hits."""
    rows = trace.view("local-consistency", m="16").to_pylist()
    found = {
        "SRP at m = 16, mean over layers": mean(rows, "srp"),
        "SRP at m = 16, lowest and highest layer": [min(r["srp"] for r in rows), max(r["srp"] for r in rows)],
        "independent choices with the same loads": mean(rows, "independent"),
        "even choices": mean(rows, "even"),
    }
    if caches:
        experts = trace.routers[0].num_experts
        hits = trace.view(
            "cache-hits", sizes=f"{experts // 4},{experts // 2}", policies="lru,belady,fixed"
        ).to_pylist()
        for size in (experts // 4, experts // 2):
            for policy in ("lru", "fixed", "belady"):
                own = [row for row in hits if row["size"] == size and row["policy"] == policy]
                found[f"hit rate, {size} of {experts}, {policy}"] = mean(own, "hit_rate")
    return found


def mean(rows: list[dict[str, Any]], column: str) -> float:
    return float(np.mean([row[column] for row in rows]))


def load(trace: Trace) -> dict[str, float]:
    """Balance over all prompts, mean over layers."""
    table = trace.view("load-balance")
    found = {
        name: float(np.mean(np.asarray(table[name])))
        for name in ("max_over_mean", "gini", "entropy_normalised")
    }
    return found | {"dead": int(np.asarray(table["dead"]).sum())}


def conctsai(folder: Path, work: Path) -> dict[str, Any]:
    """Qwen3-30B-A3B in 8 languages: pooled divergence from English by layer."""
    path = folder / "conctsai.npz"
    trace = imported("counts", path, work, top_k=8, labels={"language": LANGUAGES})
    with np.load(path) as released:
        counts, gates = released["A"], released["G"]
    ours, ours_gates = (grid(trace, "language", LANGUAGES, name) for name in ("count", "weight_sum"))
    found: dict[str, Any] = {
        "counts as released": bool((ours == counts).all()),
        "gate sums, largest relative difference": float(np.abs(ours_gates - gates).max() / gates.max()),
    }
    p = ours_gates / ours_gates.sum(-1, keepdims=True)
    divergence_NL = routing_divergence(p[1:], p[:1])
    for language, by_layer in zip(LANGUAGES[1:], divergence_NL, strict=True):
        found[f"divergence of {language} from en, {', '.join(BANDS)}"] = [
            float(by_layer[first:last].mean()) for first, last in BANDS.values()
        ]
    return found | load(trace)


def olmoe(folder: Path, work: Path) -> dict[str, Any]:
    """OLMoE: totals, and how much of a domain's tokens its experts take."""
    labels = {"group": DOMAINS}
    trace = imported("counts", folder / "olmoe_counts.pt", work, top_k=8, layers=[0, 7, 15], labels=labels)
    count = grid(trace, "group", DOMAINS)
    tokens = count.sum(-1) / 8
    share = count / tokens[..., None]
    found: dict[str, Any] = {"tokens by domain": dict(zip(DOMAINS, tokens[:, 0].tolist(), strict=True))}
    for layer, at in ((0, 0), (7, 1), (15, 2)):
        found[f"layer {layer}: most specialised expert, share by domain"] = {
            name: round(float(share[number, at].max()), 3) for number, name in enumerate(DOMAINS)
        }
        spread = share[:, at].max(0) / np.maximum(share[:, at].mean(0), 1e-9)
        found[f"layer {layer}: experts with twice their mean share in some domain"] = int((spread > 2).sum())
    return found | {"imbalance over all domains": load_imbalance(count.sum((0, 1)))["cv"]}


def olmoe_top1(folder: Path, work: Path) -> dict[str, Any]:
    """OLMoE's first experts at layers 7 and 15: the transitions that its authors counted."""
    trace = imported("neutral", folder / "olmoe_top1.parquet", work, experts=64)
    with np.load(folder / "olmoe_top1_truth.npz") as released:
        truth = {name: released[name] for name in released.files}
    same = {}
    for name, expected in truth.items():
        table = trace.view("transitions", layer=7, to_layer=15, where={"group": [name]})
        same[name] = bool((np.asarray(table["pairs"]).reshape(64, 64) == expected).all())
    return {"events": trace.num_events, "transitions as released": same}


def moelens(folder: Path, work: Path) -> dict[str, Any]:
    """DeepSeek-MoE-16B: ten prompts with text."""
    trace = imported("neutral", folder / "dsmoe16b.parquet", work, experts=64)
    return {"events": trace.num_events, "tokens": trace.num_tokens, **load(trace)}


def sample(folder: Path, work: Path) -> dict[str, Any]:
    """The same measures of the bundled trace of the sample model."""
    trace = open_trace(sample_dir() / "trace")
    languages = [name for name in trace.groups("language").names if name is not None]
    count = grid(trace, "language", languages)
    p = count / count.sum(-1, keepdims=True)
    english = languages.index("en")
    others = [number for number in range(len(languages)) if number != english]
    divergence = routing_divergence(p[others], p[english : english + 1]).mean(0)
    return {
        "pooled divergence from en, by layer": [float(value) for value in divergence],
        **sequences(trace, caches=True), **load(trace),
    }  # fmt: skip


STUDIES: dict[str, tuple[Callable[[Path, Path], dict[str, Any]], tuple[str, ...]]] = {
    "esft": (esft, ("esft.parquet", "esft_released_summary.json")),
    "conctsai": (conctsai, ("conctsai.npz",)),
    "olmoe": (olmoe, ("olmoe_counts.pt",)),
    "olmoe_top1": (olmoe_top1, ("olmoe_top1.parquet", "olmoe_top1_truth.npz")),
    "moelens": (moelens, ("dsmoe16b.parquet",)),
    "sample": (sample, ()),
}


def imported(form: str, path: Path, work: Path, **options: Any) -> Trace:
    out = work / f"{path.stem}-trace"
    if not out.exists():
        run(form, path, out, **options)
    return open_trace(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the files are")
    parser.add_argument("--work", type=Path, help="keep the traces here")
    parser.add_argument("--only", choices=STUDIES, action="append", help="only this part; may be given again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        for name in given.only or STUDIES:
            study, files = STUDIES[name]
            missing = [file for file in files if not (given.folder / file).exists()]
            if missing:
                print(f"## {name}: left out, {', '.join(missing)} is not in {given.folder}\n")
                continue
            print(f"## {name}: {study.__doc__}")
            for key, value in study(given.folder, work).items():
                print(f"  {key}: {rounded(value)}")
            print(flush=True)


def rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.3g}") if isinstance(value, float) and abs(value) < 1 else value


if __name__ == "__main__":
    main()

"""Six imported series.

Routing that other systems would log, made by a rule that stands in the script and read by `moescope import neutral`:
snippets of a video, trading days, cameras and skills of a drive, turns of a dialogue, people by age.

Systems: 6 GS-MoE (arXiv 2508.06318); 31 MIGA (arXiv 2410.02241); 32 DriveMoE (arXiv 2505.16278); 36 MoE for dialogue
    management (arXiv 2206.00059); 40 SEM (arXiv 2007.02432)
Real: the import, and everything that the app does with it: streams, tags, an axis of days, ages or steps.
Toy: all numbers come from the rules in this script, with a little noise. No model, no video, no market, no road.
Not shown: anything about the papers' own data or results. SEM's latent classes are no neural router.
Look at: one stream at a time (chosen in the bar above): video, stocks, stock, camera, skill, dialogue, classes. Along
    its axis each shows the rule that made it: the anomaly's snippets, three regimes of twenty days, the manoeuvre.
Opens: structure?question=Timeline&by=day&stream=stocks
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from datetime import date, timedelta
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from moescope.sample_data.gallery.kit import annotate
from moescope.store import Trace
from moescope.store.importers import run as import_file

ANOMALIES = ("fight", "fire", "accident", "theft", "flood")
"""Class experts 1 to 5; expert 0 is the normal video."""
ANOMALY = range(12, 20)
"""Snippets of a video that show it."""
REGIME_DAYS, GROUPS = 20, 3
SKILLS = ("follow lane", "merge", "overtake", "brake", "give way")
SKILL_STEPS, SKILL_CAMERA = 8, (0, 1, 2, 0, 3)
"""Steps that a skill lasts, and the camera that each one looks through."""
TURNS_PER_ACT = 3
LINES = ((-4.0, 0.05), (0.0, 0.0), (-6.0, 0.12))
"""Intercept and slope per year of age of the scores of SEM's three classes."""

Row = dict[str, Any]


def soft(best: int, experts: int, rng: np.random.Generator) -> list[float]:
    """Weights that sum to 1 with about .7 on `best`, the largest."""
    rest = rng.dirichlet(np.ones(experts)) * 0.3
    rest[best] += 0.7
    return rest.tolist()


def class_probabilities(age: float) -> np.ndarray:
    """SEM: softmax of scores that are linear in the covariate."""
    scores = np.exp([a + b * age for a, b in LINES])
    return scores / scores.sum()


def rows(sequence: str, step: int, stream: str, weights: list[float], **more: Any) -> Row:
    """One event in the neutral format: all experts with their weights."""
    order = np.argsort(-np.array(weights), kind="stable").tolist()
    return {"sequence": sequence, "step": step, "layer": 0, "stream": stream, "expert": order,
            "weight": [weights[e] for e in order], "text": sequence} | more  # fmt: skip


def video(rng: np.random.Generator, count: int) -> Iterator[Row]:
    for number in range(count):
        kind = 1 + number % len(ANOMALIES)
        for snippet in range(32):
            best = kind if snippet in ANOMALY else 0
            more = {"token": f"snippet {snippet}", "anomaly": ANOMALIES[kind - 1]}
            yield rows(f"video {number}", snippet, "video", soft(best, 6, rng), source="video", **more)


def stocks(rng: np.random.Generator, days: int, each: int = 8) -> Iterator[Row]:
    """A group router, and in each group a router of its four experts; both see every stock of every day."""
    for number in range(days):
        day = date(2024, 1, 1) + timedelta(days=number)
        group = number // REGIME_DAYS % GROUPS
        for stock in range(each):
            about = {"token": f"stock {stock}", "day": day.isoformat(), "source": "stocks"}
            yield rows(f"day {day}", stock, "stocks", soft(group, GROUPS, rng), **about)
            yield rows(f"day {day}", stock, "stock", soft(4 * group + stock % 4, 4 * GROUPS, rng), **about)


def drive(rng: np.random.Generator, count: int) -> Iterator[Row]:
    for number in range(count):
        for step in range(SKILL_STEPS * len(SKILLS)):
            skill = step // SKILL_STEPS
            about = {"token": f"frame {step}", "source": "drive"}
            yield rows(f"drive {number}", step, "camera", soft(SKILL_CAMERA[skill], 6, rng), **about)
            yield rows(f"drive {number}", step, "skill", soft(skill, len(SKILLS), rng), **about)


def dialogue(rng: np.random.Generator, count: int) -> Iterator[Row]:
    for number in range(count):
        for turn in range(4 * TURNS_PER_ACT):
            weights = soft(turn // TURNS_PER_ACT, 4, rng)
            yield rows(
                f"dialogue {number}", turn, "dialogue", weights, token=f"turn {turn}", source="dialogue"
            )


def people(rng: np.random.Generator, count: int) -> Iterator[Row]:
    for number in range(count):
        age = 20 + 60 * number // max(count - 1, 1)
        weights = class_probabilities(age).tolist()
        yield rows(f"person {number}", 0, "classes", weights, token="answer", age=str(age), source="people")


def run(out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Write the rules' events as a JSONL file, and import it."""
    rng = np.random.default_rng(seed)
    few = 5 if small else 20
    makers = (video(rng, few), stocks(rng, REGIME_DAYS * GROUPS), drive(rng, few), dialogue(rng, few))
    events = [row for maker in (*makers, people(rng, few * 3)) for row in maker]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "series.jsonl"
        file.write_text("\n".join(map(json.dumps, events)), encoding="utf-8")
        import_file("neutral", file, out)
    return annotate("series", out)

"""The intervention of "Multilingual Routing in Mixture-of-Experts" (arXiv 2510.04694) on the bundled sample.

1. Task experts: experts that the pivot's (English) task prompts use more often than its general text does, by more
   than tau, in the middle layers. The task is what the sample model was trained to do: continue software help;
   general text is law (`contrast.csv`).
2. Their logits are raised by λ standard deviations while the model continues held-out help text in every language:
   choose the true continuation among four, and perplexity.
3. Controls: random experts of the same layers, the same in other layers, −λ, and (the paper's own) the experts of
   the same layers that are specialised in several other languages.
"""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moescope.store import open_trace, sample_dir
from moescope.tracer import Prompt, PromptSet, Steering, trace_prompts
from moescope.tracer.evaluate.dose import doses_of_amount
from moescope.tracer.evaluate.run import dose_curve, evaluate

PIVOT, TASK = "en", "instruction"
MIDDLE = "2:5"
TAUS = (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)
LEAST = 4
"""Task experts that an intervention needs to be one."""
STRENGTH = 0.5
DOSES = (0.25, 1.0, 2.0)
UNITS = 15
DRAWS = 5
CHOICES = 4
CHARACTERS = 24
"""Of each continuation: all choices are equally long, or the shortest would win."""

Cells = list[tuple[int, int]]


def run(model: Any, tokenizer: Any, report: Callable[..., None]) -> None:
    task, many, tau = specialists(model, tokenizer)
    print(f"tau {tau}: task experts {task}; in several other languages {many}")
    prompts = continuations()
    print(f"{len(prompts)} prompts")
    promoted = steering(task)
    for name, profile in (("the pivot's task experts", promoted), ("multilingual experts", steering(many))):
        found = evaluate(model, tokenizer, prompts, profile, controls=DRAWS if profile is promoted else 0)
        rows = found.effects("language", target=PIVOT).to_pylist()
        print(f"\n### Promoting {name} ({'; '.join(found.notes)})")
        groups = list(dict.fromkeys(row["group"] for row in rows))
        for measure, percent in (("accuracy", True), ("perplexity", True), ("changed", True)):
            if profile is promoted:
                report(rows, measure, groups, percent=percent)
            else:
                brief(rows, measure)
    curve = dose_curve(model, tokenizer, prompts, doses_of_amount(promoted), DOSES)
    for measure in ("accuracy", "log_perplexity"):
        print(f"\n### {measure} by λ")
        for row in curve.effects().to_pylist():
            if row["measure"] == measure:
                print(
                    f"| {row['variant']} | {row['change']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f}) |"
                )


def brief(rows: list[dict[str, Any]], measure: str) -> None:
    """Only over all prompts."""
    for row in rows:
        if (row["measure"], row["group"]) == (measure, "all"):
            print(f"{measure}: {row['change']:+.2%} ({row['low']:+.2%} to {row['high']:+.2%})")


def steering(cells: Cells, strength: float = STRENGTH) -> Steering:
    by_layer: dict[int, list[int]] = defaultdict(list)
    for layer, expert in cells:
        by_layer[layer].append(expert)
    rules = [
        {"rule": "bias", "layers": [layer], "experts": each, "amount": strength}
        for layer, each in sorted(by_layer.items())
    ]
    return Steering(rules, name="task experts promoted")


def specialists(model: Any, tokenizer: Any) -> tuple[Cells, Cells, float]:
    """The pivot's task experts at the largest tau that gives enough of them, as many experts that several
    other languages prefer, and that tau."""
    out = Path(tempfile.mkdtemp()) / "contrast"
    trace_prompts(model, tokenizer, PromptSet.from_file(sample_dir() / "contrast.csv"), out)
    trace = open_trace(out)
    rows: list[dict[str, Any]] = []
    task: Cells = []
    tau = TAUS[0]
    for tau in TAUS:
        rows = trace.view(
            "specialised-experts", tau=tau, pivot=PIVOT, task=TASK, layers=MIDDLE, resamples=100
        ).to_pylist()
        task = [(row["layer"], row["expert"]) for row in rows if row["language"] is None]
        if len(task) >= LEAST:
            break
    others: dict[tuple[int, int], set[str]] = defaultdict(set)
    for row in rows:
        if row["language"] is not None:
            others[row["layer"], row["expert"]].add(row["language"])
    ranked = sorted(others, key=lambda cell: (-len(others[cell]), cell))
    return task, sorted([cell for cell in ranked if cell not in task][: len(task)]), tau


def continuations() -> PromptSet:
    """Held-out help segments of which no translation was used to find the experts: choose how each goes on."""
    used = {prompt.text for prompt in PromptSet.from_file(sample_dir() / "contrast.csv")}
    units: dict[str, dict[str, str]] = defaultdict(dict)
    for prompt in PromptSet.from_file(sample_dir() / "help_parallel.csv"):
        units[prompt.parallel_id or ""][prompt.language or ""] = prompt.text
    shortest = 2 * CHARACTERS
    fresh = {
        unit: texts
        for unit, texts in units.items()
        if not used & set(texts.values()) and min(map(len, texts.values())) >= shortest
    }
    chosen = dict(list(fresh.items())[:UNITS])
    rng = random.Random(0)
    prompts = []
    for unit, texts in chosen.items():
        wrong = rng.sample([other for other in chosen if other != unit], CHOICES - 1)
        place = rng.randrange(CHOICES)
        for language, text in texts.items():
            ends = [ending(chosen[other][language]) for other in wrong]
            ends.insert(place, ending(text))
            prompts.append(
                Prompt(
                    id=f"{unit}/{language}", text=text[: cut(text)], language=language, parallel_id=unit,
                    choices=tuple(ends), answer=place,
                )
            )  # fmt: skip
    return PromptSet(tuple(prompts), "continuations")


def cut(text: str) -> int:
    """Where a text is broken off: in its middle, before a space where there is one near."""
    middle = len(text) // 2
    space = text.rfind(" ", middle // 2, middle + 1)
    return space if space > 0 else middle


def ending(text: str) -> str:
    return text[cut(text) :][:CHARACTERS]

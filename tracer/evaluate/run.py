"""Runs a steering over a prompt set, beside its controls.

1. Every batch of texts runs once unsteered, then once under the steering and under each control.
2. Per prompt: log-likelihood, the answer where there are choices, KL of the next-token distributions, tokens
   whose expert set changed by layer; and, where asked for, what each variant generates.
3. Effects are paired differences with bootstrap intervals over units of prompts (`effects`).

A claim without its controls is not shown as a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np

from ...store.schema import RouterSpec
from ..generate.batch import pad_token_id
from ..generate.live_model import LiveModel
from ..models.forward import max_length
from ..prompts.prompt import Prompt
from ..prompts.prompt_set import PromptSet
from ..steering.profile import Steering
from ..tokens.batches import plan_batches
from ..tokens.encode import Encoder
from .controls import ControlKind, make_controls
from .dose import Make, dose_variants
from .effects import Evaluation
from .finding import MIN_DRAWS, PROFILE
from .forced_passes import LOGIT_CELLS, ForcedPasses, make_work
from .outcome import Outcome
from .tally import Tally, scored_sequences
from .texts import write_texts
from .units import few_units_note, units_of

Progress = dict[str, Any]
Variants = Mapping[str, tuple[ControlKind, Steering]]
"""Name → kind and steering."""


def evaluate(
    model: Any,
    tokenizer: Any,
    prompts: PromptSet,
    steering: Steering,
    *,
    controls: int = MIN_DRAWS,
    seed: int = 0,
    chat: bool = False,
    max_new_tokens: int = 0,
    batch_tokens: int = 4096,
    routers: Sequence[RouterSpec] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """What a steering does over a prompt set, and what its controls do.

    Args:
        controls: random draws; fewer than 5 make no finding. 0 leaves all controls out.
        seed: of the draws.
        chat: put the prompts through the tokenizer's chat template.
        max_new_tokens: tokens that every variant generates greedily after each prompt, for response classes.
        batch_tokens: padded tokens in a batch; fewer where the vocabulary is large.
        progress: told after every forward pass.
    Returns:
        An `Evaluation`; its `effects(by="language")` is the table to show.
    """
    with LiveModel(model.eval(), routers) as live:
        variants, notes = variants_of(steering, live.routers, draws=controls, seed=seed)
        steps = evaluate_steps(
            live, tokenizer, prompts, variants, notes=notes, chat=chat, max_new_tokens=max_new_tokens,
            batch_tokens=batch_tokens,
        )  # fmt: skip
        return run_to_end(steps, progress)


def dose_curve(
    model: Any,
    tokenizer: Any,
    prompts: PromptSet,
    make: Make,
    doses: Sequence[float],
    *,
    controls: int = 0,
    seed: int = 0,
    chat: bool = False,
    max_new_tokens: int = 0,
    batch_tokens: int = 4096,
    routers: Sequence[RouterSpec] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Effects at each dose: `make` gives the steering (see `doses_of_experts` and `doses_of_amount`).

    Args:
        controls: random draws beside each dose.
        The others are those of `evaluate`.
    Returns:
        An `Evaluation` with one variant a dose, named by it, and its draws; `dose_table` makes the curve of it.
    """
    with LiveModel(model.eval(), routers) as live:
        variants = dose_variants(make, doses, live.routers, draws=controls, seed=seed)
        steps = evaluate_steps(
            live,
            tokenizer,
            prompts,
            variants,
            chat=chat,
            max_new_tokens=max_new_tokens,
            batch_tokens=batch_tokens,
        )
        return run_to_end(steps, progress)


def variants_of(
    steering: Steering, routers: Sequence[RouterSpec], *, draws: int = MIN_DRAWS, seed: int = 0
) -> tuple[Variants, list[str]]:
    """The steering and its controls by name, and what is missing among them."""
    variants: dict[str, tuple[ControlKind, Steering]] = {PROFILE: ("profile", steering)}
    if draws <= 0:
        return variants, ["no controls were run"]
    found, notes = make_controls(steering, routers, draws=draws, seed=seed)
    for control in found:
        variants[control.name] = (control.kind, control.steering)
    return variants, notes


def evaluate_steps(
    live: LiveModel,
    tokenizer: Any,
    prompts: PromptSet,
    variants: Variants,
    *,
    notes: Sequence[str] = (),
    chat: bool = False,
    max_new_tokens: int = 0,
    batch_tokens: int = 4096,
) -> Generator[Progress, None, Evaluation]:
    """The evaluation step by step: yields its progress after every forward pass, returns the result."""
    encoder = Encoder(tokenizer, chat=chat, max_length=max_length(live.model))
    sequences = scored_sequences(list(prompts), encoder, tokenizer)
    tallies = {name: Tally(sequences, len(live.keys)) for name in ("", *variants)}
    lengths = np.array([len(sequence.encoded) for sequence in sequences])
    plan = plan_batches(lengths, batch_cells(live, batch_tokens))
    generating = len(prompts) * (1 + len(variants)) if max_new_tokens else 0
    scoring = len(plan) * (1 + len(variants))
    done, total = 0, scoring + generating
    passes, pad_id = ForcedPasses(live), pad_token_id(tokenizer)
    for numbers in plan:
        work = make_work([sequences[i].encoded for i in numbers], pad_id)
        base = passes.base(work)
        tallies[""].add(numbers, work, base.result)
        done += 1
        yield {"done": done, "total": total, "scoring": scoring}
        for name, (_, steering) in variants.items():
            tallies[name].add(numbers, work, passes.steered(work, steering, base))
            done += 1
            yield {"done": done, "total": total, "scoring": scoring}
    outcomes = {name: tally.outcome(list(prompts)) for name, tally in tallies.items()}
    if max_new_tokens:
        for name, outcome in outcomes.items():
            steering = variants[name][1] if name else None
            writing = write_texts(live, tokenizer, encoder.prompts(list(prompts)), steering, max_new_tokens)
            outcome.texts = yield from _counted(writing, done, total)
            done += len(prompts)
    return evaluation_of(prompts, live.routers, outcomes, variants, notes)


def evaluation_of(
    prompts: PromptSet,
    routers: Sequence[RouterSpec],
    outcomes: Mapping[str, Outcome],
    variants: Variants,
    notes: Sequence[str],
) -> Evaluation:
    """An evaluation of what each variant did; "" is the outcome without any steering."""
    units = units_of([prompt.parallel_id for prompt in prompts])
    few = few_units_note(len(set(units)))
    return Evaluation(
        prompt_ids=[prompt.id for prompt in prompts],
        groups=_groups(prompts),
        routers=[(spec.layer, spec.stream) for spec in routers],
        base=outcomes[""],
        variants={name: outcome for name, outcome in outcomes.items() if name},
        kinds={name: kind for name, (kind, _) in variants.items()},
        profiles={name: steering.to_json() for name, (_, steering) in variants.items()},
        notes=[*notes, *few],
        units=units,
    )


def run_to_end(
    steps: Generator[Progress, None, Evaluation], tell: Callable[[Progress], None] | None = None
) -> Evaluation:
    """Runs a step-by-step evaluation without a pause."""
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            return end.value
        if tell is not None:
            tell(progress)


def _counted(
    writing: Generator[int, None, list[str]], done: int, total: int
) -> Generator[Progress, None, list[str]]:
    while True:
        try:
            yield {"done": done + next(writing), "total": total}
        except StopIteration as end:
            return end.value


def batch_cells(live: LiveModel, batch_tokens: int) -> int:
    """Tokens of a batch whose next-token distributions fit."""
    vocabulary = live.model.get_output_embeddings().weight.shape[0]
    return max(1, min(batch_tokens, LOGIT_CELLS // vocabulary))


def _groups(prompts: Sequence[Prompt]) -> dict[str, list[str | None]]:
    """The columns that effects can be split by."""
    tags = sorted({name for prompt in prompts for name in prompt.tags})
    columns: dict[str, list[str | None]] = {
        "language": [prompt.language for prompt in prompts],
        "group": [prompt.group for prompt in prompts],
    }
    columns |= {tag: [prompt.tags.get(tag) for prompt in prompts] for tag in tags}
    return {name: values for name, values in columns.items() if any(values)}

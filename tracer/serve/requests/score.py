"""/v1/score: how likely prompts are, or which of their choices is, unsteered, steered, or both compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...errors import TracerError
from ...evaluate.forced_passes import ForcedPasses, Pass, Work, make_work
from ...evaluate.run import batch_cells
from ...evaluate.tally import Scored, Tally, scored_sequences
from ...generate.batch import pad_token_id
from ...models.forward import max_length
from ...prompts.prompt import Prompt
from ...prompts.prompt_set import PromptSet
from ...steering.profile import Steering
from ...tokens.batches import plan_batches
from ...tokens.choices import picked
from ...tokens.encode import Encoder
from ..engine.engine import Event, Steps
from ..engine.served import Served
from ..errors import ApiError
from ..limits import Limits
from .checks import read_prompts, read_steering

BATCH_TOKENS = 2048
"""Padded tokens in one step: others wait for one such step."""


def prepare(served: Served, request: dict[str, Any], limits: Limits) -> Callable[[Served], Steps]:
    """Check a request against the model."""
    prompts = read_prompts(request["prompts"])
    steering = read_steering(request.get("steering"), served, limits)
    sequences = encode(served, prompts, bool(request["chat"]))
    longest = max(sequences, key=lambda sequence: len(sequence.encoded))
    if len(longest.encoded) > limits.prompt_tokens:
        name = prompts[longest.prompt].id
        message = (
            f"prompts: {name!r} has {len(longest.encoded)} tokens; at most {limits.prompt_tokens} are allowed"
        )
        raise ApiError(413, message, field="prompts")
    return lambda loaded: score_steps(loaded, prompts, sequences, steering, request)


def encode(served: Served, prompts: PromptSet, chat: bool) -> list[Scored]:
    """The sequences to score. Raises `ApiError` 400 for a prompt that gives no tokens, 413 for one too long."""
    encoder = Encoder(served.tokenizer, chat=chat, max_length=max_length(served.model))
    try:
        with served.lock:
            return scored_sequences(list(prompts), encoder, served.tokenizer)
    except TracerError as error:
        status = 413 if "tokens, the model takes" in str(error) else 400
        raise ApiError(status, str(error), field="prompts") from None


def score_steps(
    served: Served,
    prompts: PromptSet,
    sequences: list[Scored],
    steering: Steering | None,
    request: dict[str, Any],
) -> Steps:
    """One batch a step; the last event is the answer."""
    compare = bool(request["compare"])
    sides = ("base", "steered") if compare else ("steered",) if steering is not None else ("base",)
    tallies = {side: Tally(sequences, len(served.live.keys)) for side in sides}
    details: dict[str, dict[int, Event]] = {side: {} for side in sides}
    passes, pad_id = ForcedPasses(served.live), pad_token_id(served.tokenizer)
    lengths = np.array([len(sequence.encoded) for sequence in sequences])
    for numbers in plan_batches(lengths, batch_cells(served.live, BATCH_TOKENS)):
        work = make_work([sequences[i].encoded for i in numbers], pad_id)
        for side, result in _passes(passes, work, sides, steering):
            tallies[side].add(numbers, work, result)
            if request["positions"]:
                for number, detail in zip(
                    numbers, _positions(served, work, result, side == "steered" and compare), strict=True
                ):
                    details[side][int(number)] = detail
            yield None
    yield answer(list(prompts), sequences, tallies, details)


def _passes(
    passes: ForcedPasses, work: Work, sides: tuple[str, ...], steering: Steering | None
) -> Iterator[tuple[str, Pass]]:
    if len(sides) == 1:
        yield sides[0], passes.alone(work, steering).result
        return
    base = passes.base(work)
    yield "base", base.result
    yield "steered", passes.steered(work, steering, base)


def _positions(served: Served, work: Work, result: Pass, compare: bool) -> Iterator[Event]:
    """For each sequence of a batch, the numbers of its scored tokens."""
    names = [key.name for key in served.live.keys]
    for row, sequence in enumerate(work.batch.encoded):
        mine = np.flatnonzero(work.sequence_N == row)
        ids = sequence.ids[work.position_N[mine]].tolist()
        changed = result.changed_LT[:, work.place_N[mine]].T
        detail: Event = {
            "position": work.position_N[mine].tolist(),
            "token_id": ids,
            "token": served.token_texts(ids),
            "logprob": result.logprob_N[mine].tolist(),
        }
        if compare:
            detail["kl"] = result.kl_N[mine].tolist()
            detail["changed"] = [[names[i] for i in np.flatnonzero(column)] for column in changed]
        yield detail


def answer(
    prompts: list[Prompt],
    sequences: list[Scored],
    tallies: dict[str, Tally],
    details: dict[str, dict[int, Event]],
) -> Event:
    """The answer: a row a prompt with each side's numbers, and their summary."""
    rows: list[Event] = [{"id": prompt.id} for prompt in prompts]
    for side, tally in tallies.items():
        outcome, choices = tally.outcome(prompts), tally.choice_logprobs(len(prompts))
        for place, row in enumerate(rows):
            row[side] = _row(outcome, place, choices[place])
        for number, detail in details[side].items():
            rows[sequences[number].prompt][side].setdefault("positions", []).append(detail)
    if "base" in tallies and "steered" in tallies:
        outcome = tallies["steered"].outcome(prompts)
        for place, row in enumerate(rows):
            positions, routed = outcome.positions_P[place], outcome.routed_P[place]
            row["kl"] = float(outcome.kl_P[place] / positions) if positions else None
            row["changed"] = (outcome.changed_PL[place] / routed).tolist() if routed else None
    summary = {side: _summary([row[side] for row in rows]) for side in tallies}
    return {"prompts": rows, "summary": summary}


def _row(outcome: Any, place: int, choices: list[float] | None) -> Event:
    tokens, nll = int(outcome.tokens_P[place]), float(outcome.nll_P[place])
    row: Event = {"tokens": tokens, "logprob": -nll if tokens else None, "perplexity": _exp(nll, tokens)}
    if choices is None:
        return row
    correct = outcome.correct_P[place]
    known = None if math.isnan(correct) else bool(correct)
    return row | {"choice_logprobs": choices, "chosen": picked(choices), "correct": known}


def _summary(rows: list[Event]) -> Event:
    scored = [row for row in rows if row["tokens"]]
    tokens, nll = sum(row["tokens"] for row in scored), -sum(row["logprob"] for row in scored)
    answered = [row["correct"] for row in rows if row.get("correct") is not None]
    accuracy = sum(answered) / len(answered) if answered else None
    return {"tokens": tokens, "logprob": -nll, "perplexity": _exp(nll, tokens), "accuracy": accuracy}


def _exp(nll: float, tokens: int) -> float | None:
    """Perplexity; None where nothing was scored or it is beyond what a float holds."""
    mean = nll / tokens if tokens else math.inf
    return math.exp(mean) if mean < 700 else None

"""/v1/generate: one answer, or the base and the steered answer side by side.

To compare, every text is run under both models in one forward pass, as two sequences of a lane: the one that
writes the text chooses the token, and the two distributions give the KL at that position. As long as base and
steered text are the same they share a lane; where they part, each goes on in its own. So comparing costs one pass
of two sequences a token, and two such passes once the texts differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...evaluate.forced_passes import divergence
from ...generate.detokenise import TextStream
from ...generate.lanes import SIDES, Lane, Side, Step, finite
from ...generate.sampling import Sampler
from ..engine.engine import Event, Steps
from ..engine.served import Served
from ..errors import ApiError
from ..limits import Limits
from .checks import read_steering
from .given import exactly_one
from .prompt_positions import along_prompt, first_steered, note, rows_to_keep


@dataclass
class Writer:
    """One side's answer as it grows."""

    side: Side
    sampler: Sampler
    stream: TextStream
    row: int
    """Which sequence of its lane is this side's model."""
    ids: list[int] = field(default_factory=list)
    text: str = ""
    kl: list[float] = field(default_factory=list)
    finish: str | None = None

    def result(self) -> Event:
        mean = float(np.mean(self.kl)) if self.kl else None
        return {
            "text": self.text, "token_ids": self.ids, "count": len(self.ids), "finish": self.finish, "mean_kl": mean,
        }  # fmt: skip


def prepare(served: Served, request: dict[str, Any], limits: Limits) -> Callable[[Served], Steps]:
    """Check a request against the model. Raises `ApiError` for what it asks too much or wrongly."""
    kind = exactly_one(request, "prompt", "messages")
    ids = served.encode(request[kind], kind, limits)
    steering = read_steering(request.get("steering"), served, limits)
    new = int(request["max_new_tokens"])
    if served.context is not None and len(ids) + new > served.context:
        most = served.context - len(ids)
        message = f"max_new_tokens: the model takes {served.context} tokens, the prompt has {len(ids)}; "
        raise ApiError(400, message + f"at most {most} can follow", field="max_new_tokens")
    if request["positions"] and not request["compare"]:
        raise ApiError(400, "`positions` needs `compare: true`", field="positions")
    keep = rows_to_keep(served, len(ids), limits) if request["positions"] else 1
    return lambda loaded: generate_steps(loaded, ids, steering, request, keep)


def generate_steps(
    served: Served, ids: list[int], steering: Any, request: dict[str, Any], keep: int = 1
) -> Steps:
    """Events of one request; one forward pass between two yields.

    Args:
        keep: of how many of the prompt's last positions the logits are kept for `along_prompt`.
    """
    compare = bool(request["compare"])
    writers = [_writer(served, side, row, ids, request) for row, side in enumerate(_sides(compare, steering))]
    same_until = first_steered(served, steering, len(ids)) if compare else 0
    steerings = [None, steering] if compare else [steering]
    lane = Lane(served.live, [ids] * len(writers), steerings, keep=keep, same_until=same_until)
    along: list[Event] = []
    together = [(lane, writers)]
    while together:
        for group in list(together):
            lane, members = group
            step = lane.step()
            events = [_choose(served, writer, step, request, compare) for writer in members]
            together.remove(group)
            together += _go_on(lane, members)
            yield from events
            if step.prompt is not None:
                for piece in along_prompt(served, ids, step.prompt, int(request["candidates"]), same_until):
                    along += piece
                    yield None
            del step  # and the logits of the prompt with it
    end: Event = {"done": True, "prompt_tokens": len(ids)} | {
        writer.side: writer.result() for writer in writers
    }
    if compare:
        end["kl_floor"] = served.kl_floor(ids)
    if request["positions"]:
        end |= {"prompt_positions": along, "prompt_note": note(served, len(ids), len(along))}
    yield end


def _sides(compare: bool, steering: Any) -> tuple[Side, ...]:
    if compare:
        return SIDES
    return ("steered",) if steering is not None else ("base",)


def _writer(served: Served, side: Side, row: int, ids: list[int], request: dict[str, Any]) -> Writer:
    sampler = Sampler(float(request["temperature"]), float(request["top_p"]), int(request["seed"]))
    return Writer(side, sampler, TextStream(served.decode, ids), row)


def _choose(served: Served, writer: Writer, step: Step, request: dict[str, Any], compare: bool) -> Event:
    """Let a side choose its next token, and tell what there is to tell about it."""
    logprobs_V = step.logprobs_BV[writer.row]
    token = writer.sampler.choose(logprobs_V)
    writer.ids.append(token)
    ended = token in served.end_ids
    writer.finish = (
        "stop" if ended else "length" if len(writer.ids) >= int(request["max_new_tokens"]) else None
    )
    text = writer.stream.add(token) + (writer.stream.end() if writer.finish else "")
    writer.text += text
    event: Event = {
        "side": writer.side,
        "index": len(writer.ids) - 1,
        "token_id": token,
        "token": served.token_texts([token])[0],
        "text": text,
        "logprob": finite(float(logprobs_V[token])),
        "experts": {key.name: rows[writer.row] for key, rows in step.experts.items()},
        "kl": None,
    }
    if compare:
        kl = float(divergence(step.logprobs_BV[:1], step.logprobs_BV[1:])[0])
        writer.kl.append(kl)
        event["kl"] = finite(kl)
        event["changed"] = [key.name for key, (a, b) in step.experts.items() if set(a) != set(b)]
    if request["candidates"]:
        event["candidates"] = _candidates(served, step, int(request["candidates"]), compare, writer.side)
    return event


def _candidates(served: Served, step: Step, count: int, compare: bool, side: Side) -> Event:
    names = SIDES if compare else (side,)
    top = step.logprobs_BV.topk(min(count, step.logprobs_BV.shape[-1]), dim=-1)
    rows = zip(names, top.indices.tolist(), top.values.tolist(), strict=True)
    return {
        name: [
            [i, text, finite(value)]
            for i, text, value in zip(ids, served.token_texts(ids), values, strict=True)
        ]
        for name, ids, values in rows
    }


def _go_on(lane: Lane, members: list[Writer]) -> list[tuple[Lane, list[Writer]]]:
    """The lanes that follow: the same one, two where the members' texts part, none where all have ended."""
    left = [writer for writer in members if writer.finish is None]
    if len(left) == 2 and left[0].ids[-1] != left[1].ids[-1]:
        lanes = [lane, lane.fork()]
        groups = [(own, [writer]) for own, writer in zip(lanes, left, strict=True)]
    else:
        groups = [(lane, left)] if left else []
    for own, writers in groups:
        own.feed([writers[0].ids[-1]] * own.size)
    return groups

"""A model made ready to record prompts: everything that can be refused has been refused, nothing is written yet.

    recording = Recording(model, tokenizer, prompts, capture=("ids", "weights"))
    with TraceWriter(out, prompt_set=describe(prompts), **recording.manifest()) as writer:
        recording.run(writer, batches)      # numbers of prompts in `prompts`

One recording serves one run over all prompts as well as lot after lot of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from ...store.schema import DEFAULT_CAPTURE, RouterSpec
from ..errors import TracerError
from ..generate.batch import Sampling
from ..hooks.outputs import OUTPUTS
from ..hooks.record import attach
from ..models.card import active_parameters, model_card
from ..models.forward import evaluating, max_length, stop_token_ids
from ..models.layout import layout_of, refuse_unknown_parts
from ..prompts.prompt_set import PromptSet
from ..routers.declare import declared_texts
from ..routers.find import routers_to_trace, traced_routers
from ..tokens.batches import plan_batches, shuffled
from ..tokens.encode import Encoded, Encoder
from ..tokens.token_text import TokenTexts
from .batch_runner import BatchRunner
from .begin import check_settings, encode_ahead, output_watch
from .capture import Capture
from .part_writer import Committed, PartWriter, Writer
from .parts import PartCollector

GREEDY = Sampling(max_new_tokens=0)


class Recording:
    """See the module.

    Args:
        prompts: all that may be run; the others are those of `trace_prompts`.
    Attributes:
        layout: how the model lies over processes.
        routers: what is recorded, in the order of the trace.
    Raises:
        TracerError: the model can't be traced, or not with these settings.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompts: PromptSet,
        *,
        capture: Sequence[str] = DEFAULT_CAPTURE,
        batch_tokens: int = 8192,
        batch_size: int | None = None,
        sampling: Sampling = GREEDY,
        chat: bool = False,
        steering: Any = None,
        limit: int | None = None,
        shard: tuple[int, int] | None = None,
        routers: Sequence[RouterSpec] | None = None,
        weight_type: str = "float16",
        card: dict[str, Any] | None = None,
    ) -> None:
        check_settings(capture, batch_tokens, weight_type)
        self.layout = layout_of(model)
        refuse_unknown_parts(self.layout)
        self._found = routers_to_trace(model, routers)
        self.routers = traced_routers(self._found)
        if self.layout.ranks > 1 and (watched := [name for name in capture if name in OUTPUTS]):
            raise TracerError(
                f"--capture {watched[0]}: experts' outputs are not recorded over several processes"
            )
        self._model, self._tokenizer, self._prompts = model, tokenizer, prompts
        self._capture, self._weight_type = tuple(capture), weight_type
        self._batch_tokens, self._batch_size = batch_tokens, batch_size
        self._sampling, self._steering, self._card = sampling, steering, card
        self._limit, self._shard, self._chat = limit, shard, chat
        self.encoder = Encoder(tokenizer, chat=chat, max_length=max_length(model))
        self._ahead: dict[int, Encoded] = {}
        self._sink = Capture(
            self.routers,
            capture,
            weight_type=weight_type,
            special_ids=self.encoder.special_ids,
            stop_ids=stop_token_ids(model) if sampling.max_new_tokens else (),
        )

    def lengths(self, numbers: Sequence[int] | None = None) -> np.ndarray:
        """Tokens of each prompt, (P,) int64: of all, or of these; others then have 0.

        Raises:
            EncodingError: a prompt that can't be traced.
        """
        if numbers is None:
            lengths, self._ahead = encode_ahead(self.encoder, self._prompts)
            return lengths
        lengths = np.zeros(len(self._prompts), np.int64)
        encoded = self.encoder.prompts([self._prompts[number] for number in numbers])
        self._ahead |= dict(zip(numbers, encoded, strict=True))
        lengths[list(numbers)] = [len(sequence) for sequence in encoded]
        return lengths

    def batches(self, lengths: np.ndarray, numbers: Sequence[int] | None = None) -> list[np.ndarray]:
        """Numbers of prompts by batch, similar lengths together, in a seeded random order."""
        chosen = np.arange(len(lengths)) if numbers is None else np.asarray(numbers, np.int64)
        plan = plan_batches(
            lengths[chosen],
            self._batch_tokens,
            batch_size=self._batch_size,
            extra=self._sampling.max_new_tokens,
        )
        return [chosen[batch] for batch in shuffled(plan)]

    def manifest(self) -> dict[str, Any]:
        """What a manifest says of model and settings, as `TraceWriter` takes it."""
        card = dict(self._card or model_card(self._model))
        card["active_parameters"] = active_parameters(self._model, self.routers)
        settings: dict[str, Any] = {
            "chat": self._chat, "batch_tokens": self._batch_tokens, "limit": self._limit,
            "batch_order": "shuffled",
        }  # fmt: skip
        if declared := declared_texts(self._model):
            settings["declared"] = declared
        settings |= {"shard": list(self._shard)} if self._shard is not None else {}
        settings |= {"batch_size": self._batch_size} if self._batch_size is not None else {}
        if attention := getattr(getattr(self._model, "config", None), "_attn_implementation", None):
            settings["attention"] = attention
        settings |= self._sampling.to_json() if self._sampling.max_new_tokens else {"max_new_tokens": 0}
        return {
            "routers": self.routers,
            "model": card,
            "settings": settings,
            "capture": self._capture,
            "weight_type": self._weight_type,
            "steering": None if self._steering is None else self._steering.to_json(),
        }

    def probe(self) -> None:
        """Find out how experts add to the residual stream, where their outputs are wanted.

        Raises:
            CaptureError: it can't be found out.
        """
        first = self._ahead.get(0) or self.encoder.prompts([self._prompts[0]])[0]
        self._outputs = output_watch(self._model, self._sink, first, self._capture, self._found)

    def run(
        self,
        writer: Writer,
        batches: Iterable[np.ndarray],
        *,
        done: Callable[[list[int]], None] | None = None,
        step: Callable[[list[int], int], None] | None = None,
        between: Callable[[Callable[[], None]], None] | None = None,
        part_events: int | None = None,
    ) -> tuple[Committed, float | None]:
        """Run the batches and commit what is recorded; after `probe`.

        Args:
            done: told of the prompts of every batch that has run.
            step: told of the prompts for which tokens are being generated, and how many there are of each.
            between: called after each batch with a function that commits all that has run.
        Returns:
            What was committed, and the share of multiple-choice prompts that were answered rightly.
        """
        runner = BatchRunner(
            self._model,
            self._tokenizer,
            self.encoder,
            self._sink,
            self._sampling,
            batch_tokens=self._batch_tokens,
            routers=self._found,
            steered=self._steering is not None,
            ahead=self._ahead,
            halves=self.layout.ranks == 1,
            step=step,
        )
        collector = PartCollector(self.routers, TokenTexts(self._tokenizer))
        with (
            evaluating(self._model),
            self._steered() as applied,
            attach(self._model, self._outputs or self._sink, routers=self._found),
            self._outputs.attached() if self._outputs is not None else nullcontext(),
            PartWriter(writer, collector, part_events=part_events) as parts,
        ):
            runner.steering = applied
            for batch in batches:
                for captured, results in runner.run([(int(i), self._prompts[int(i)]) for i in batch]):
                    if self.layout.writes:
                        parts.add(captured, results)
                    if done is not None:
                        done([result.number for result in results])
                if between is not None:
                    between(parts.flush)
        return parts.committed, runner.accuracy

    def _steered(self) -> Any:
        if self._steering is None:
            return nullcontext()
        return self._steering.applied(self._model, routers=self._found)

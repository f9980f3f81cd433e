"""Runs one batch of prompts through the model, in halves where the memory does not suffice."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch

from ...store.amount import amount
from ...store.schema import RouterSpec
from ..errors import CaptureError, TracerError
from ..generate.batch import Sampling, generate_batch, pad_token_id, trimmed
from ..hooks.selfcheck import examined
from ..models.forward import forward_options, stop_token_ids
from ..models.input_device import input_device
from ..prompts.prompt import Prompt
from ..steering.profile import Applied
from ..tokens.batches import Batch, collate
from ..tokens.choices import choice_logprobs, picked
from ..tokens.encode import Encoded, Encoder
from .capture import Capture, StopForward
from .captured_batch import CapturedBatch
from .host_batch import PromptResult

Numbered = tuple[int, Prompt]


class OutOfMemory(TracerError):
    """Not even one prompt fits; the message names it."""


class BatchRunner:
    """Runs batches while `sink` is attached to the model.

    Args:
        batch_tokens: padded tokens in a batch of choices.
        routers: what was given to `attach`.
        steered: whether a steering is applied meanwhile; it is then given as `steering`.
        ahead: sequences by prompt number that are tokenised already; taken out as they run.
        halves: whether a batch that does not fit is halved; over several processes all would have to know.
        step: told of the prompts of a batch and how many tokens have been generated for each, after each pass.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        encoder: Encoder,
        sink: Capture,
        sampling: Sampling,
        *,
        batch_tokens: int,
        routers: Sequence[RouterSpec] | None = None,
        steered: bool = False,
        ahead: dict[int, Encoded] | None = None,
        halves: bool = True,
        step: Callable[[list[int], int], None] | None = None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._sink = sink
        self._sampling = sampling
        self._batch_tokens = batch_tokens
        self._pad_id = pad_token_id(tokenizer)
        self._stop_ids = stop_token_ids(model)
        self._options = forward_options(model)
        self._answered: list[bool] = []
        self._routers = routers
        self._steered = steered
        self.steering: Applied | None = None
        """Told of each pass where its prompts end."""
        self._ahead = {} if ahead is None else ahead
        self._halves = halves
        self._step = step
        self._checked = False
        self._may_end = not steered and not _is_watched(model)
        self._too_many = sys.maxsize
        """Padded tokens that are known not to fit."""

    @property
    def accuracy(self) -> float | None:
        return sum(self._answered) / len(self._answered) if self._answered else None

    def run(self, prompts: Sequence[Numbered]) -> Iterator[tuple[CapturedBatch, list[PromptResult]]]:
        """Yields the batch, or its halves where it did not fit.

        Raises:
            OutOfMemory: a single prompt does not fit.
        """
        encoded = self._encoded(prompts)
        tokens = len(encoded) * (max(map(len, encoded)) + self._sampling.max_new_tokens)
        result = None
        try:
            if tokens < self._too_many or len(prompts) == 1:
                result = self._run(prompts, encoded)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if not self._halves:
                raise OutOfMemory(
                    f"out of memory with {amount(tokens, 'token')} in a batch: lower --batch-tokens; finished "
                    "prompts are kept"
                ) from None
            self._too_many = min(self._too_many, tokens)
            if len(prompts) == 1:
                raise OutOfMemory(
                    f"out of memory at prompt {prompts[0][1].id!r}, alone in its batch; finished prompts are kept"
                ) from None
        if result is not None:
            yield result
            return
        _free_memory()  # after the except block: its traceback keeps the failed tensors alive
        middle = len(prompts) // 2
        yield from self.run(prompts[:middle])
        yield from self.run(prompts[middle:])

    def _encoded(self, prompts: Sequence[Numbered]) -> list[Encoded]:
        """The sequences, those that were kept when their lengths were measured, and others anew."""
        missing = [(number, prompt) for number, prompt in prompts if number not in self._ahead]
        anew = self._encoder.prompts([prompt for _, prompt in missing])
        found = dict(zip((number for number, _ in missing), anew, strict=True))
        return [found[number] if number in found else self._ahead[number] for number, _ in prompts]

    def _run(
        self, prompts: Sequence[Numbered], encoded: list[Encoded]
    ) -> tuple[CapturedBatch, list[PromptResult]]:
        generating = self._sampling.max_new_tokens > 0
        batch = collate(encoded, pad_id=self._pad_id, side="left" if generating else "right")
        results = [PromptResult(prompt, number) for number, prompt in prompts]
        self._split(encoded)
        self._sink.begin(batch)
        with self._first_checked():
            if generating:
                self._generate(batch, results)
            else:
                self._forward(batch)
        captured = self._sink.take()
        self._choose(results)
        for number, _ in prompts:
            self._ahead.pop(number, None)
        return captured, results

    def _split(self, encoded: Sequence[Encoded]) -> None:
        """Completions and choices follow the prompt, though they are read in one pass with it."""
        if self.steering is not None:
            completes = any(sequence.completion.any() for sequence in encoded)
            self.steering.split([one.prompt_length for one in encoded] if completes else None)

    @contextmanager
    def _first_checked(self) -> Iterator[None]:
        """Around the first batch: what is recorded must be what the experts execute, else `CaptureError`."""
        if self._checked:
            yield
            return
        with examined(self._model, routers=self._routers) as result:
            yield
        # A steering may scale gate weights away from what the logits explain; what is executed still counts.
        suspects = [check for check in result.routers if not self._steered or check.executed is False]
        problems = [problem for check in suspects for problem in check.problems]
        if problems:
            raise CaptureError("recorded and executed routing differ: " + "; ".join(problems[:3]))
        self._checked = True

    @torch.inference_mode()
    def _forward(self, batch: Batch) -> None:
        device = input_device(self._model)
        inputs = {"input_ids": batch.input_ids_BS.to(device), "attention_mask": batch.mask_BS.to(device)}
        self._sink.ends_pass = self._may_end and self._checked
        with suppress(StopForward):
            self._model(**inputs, **self._options)
        self._sink.end_prefill()

    def _generate(self, batch: Batch, results: list[PromptResult]) -> None:
        width = batch.input_ids_BS.shape[1]
        numbers = [result.number for result in results]

        def each_step(tokens: torch.Tensor) -> None:
            if tokens.shape[1] == width:
                self._sink.end_prefill()
            else:
                self._sink.end_step(tokens[:, -1])
            if self._step is not None:
                # This pass has made the scores of one more token than `tokens` holds.
                self._step(numbers, tokens.shape[1] - width + 1)

        new_BN = generate_batch(self._model, self._tokenizer, batch, self._sampling, each_step=each_step)
        for row_N, result in zip(new_BN, results, strict=True):
            ids = trimmed(row_N, self._stop_ids)
            result.generated = self._tokenizer.decode(ids, skip_special_tokens=True)

    def _choose(self, results: list[PromptResult]) -> None:
        prompts = [result.prompt for result in results]
        scored = choice_logprobs(
            self._model,
            self._encoder,
            prompts,
            pad_id=self._pad_id,
            batch_tokens=self._batch_tokens,
            before=self._split,
        )
        for result, logprobs in zip(results, scored, strict=True):
            if logprobs is None:
                continue
            result.choice_logprobs = logprobs
            if result.prompt.answer is not None:
                result.correct = picked(logprobs) == result.prompt.answer
                self._answered.append(result.correct)


def _is_watched(model: Any) -> bool:
    """Whether others have put something around a module, to which the end of a forward pass may matter."""
    return any(
        "forward" in vars(module)
        or any(map(_is_foreign, (*module._forward_hooks.values(), *module._forward_pre_hooks.values())))
        for module in model.modules()
    )


def _is_foreign(hook: Any) -> bool:
    # transformers leaves its own on a model that was once asked for more outputs; they do nothing here.
    return getattr(hook, "__module__", None) != "transformers.utils.output_capturing"


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in text for sign in ("out of memory", "can't allocate memory", "DefaultCPUAllocator")
    )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

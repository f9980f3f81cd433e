"""Evaluates a steering inside vLLM: every text under every variant, side by side in one batch.

1. Each scored sequence is one request without steering and one under each variant; vLLM mixes them as it likes, and
   each request has its own rules on its own rows.
2. Log-likelihoods are those that vLLM gives of the prompt's tokens; expert sets are what the taps recorded.
3. The full next-token distributions never leave vLLM, so that there is no KL; everything else is as in `evaluate`.

Shapes: Q sequences, T tokens, L routers, K slots.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....store.schema import RouterSpec
from ...errors import CaptureError, SteeringError
from ...evaluate.effects import Evaluation
from ...evaluate.forced_passes import scored_tokens
from ...evaluate.run import Progress, Variants, evaluation_of
from ...evaluate.tally import Scored, Tally, scored_sequences
from ...prompts.prompt_set import PromptSet
from ...steering.check import problems_with
from ...steering.profile import Steering
from ...tokens.encode import Encoder
from .rows import read_files
from .running import ONE_DEVICE, Parallel, VllmEngine, start

AT_ONCE = 32
"""Sequences whose rows the workers hold, times the number of variants."""
NO_KL = "vLLM does not return full next-token distributions, so KL is not measured"
MakeVariants = Callable[[list[RouterSpec]], tuple[Variants, list[str]]]


def evaluate_in_vllm(
    model: str,
    prompts: PromptSet,
    variants: MakeVariants,
    *,
    parallel: Parallel = ONE_DEVICE,
    arguments: Mapping[str, Any] | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    chat: bool = False,
    max_new_tokens: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """What steerings do over a prompt set, with the model in vLLM.

    Args:
        variants: makes the steerings, with their controls, from the model's routers.
        The others are those of `trace_with_vllm` and `evaluate`.
    Raises:
        EngineError: vLLM is not there, or its routing can't be recorded.
        SteeringError: a rule that does not fit the model, or can't be had inside vLLM.
    """
    run = _Run(prompts, variants, chat, max_new_tokens, progress)
    return asyncio.run(run.run(model, parallel, dict(arguments or {}), dtype, trust_remote_code))


@dataclass
class _Run:
    prompts: PromptSet
    make: MakeVariants
    chat: bool
    max_new_tokens: int
    progress: Callable[[Progress], None] | None
    done: int = 0
    total: int = 0
    number: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)

    async def run(
        self, model: str, parallel: Parallel, arguments: dict[str, Any], dtype: str, trust_remote_code: bool
    ) -> Evaluation:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
        engine = start(
            model,
            dtype=dtype,
            parallel=parallel,
            arguments=arguments,
            trust_remote_code=trust_remote_code,
            steered=True,
        )
        try:
            with tempfile.TemporaryDirectory(prefix="moescope-vllm-") as self.folder:
                await engine.begin(self.folder, ("ids",))
                return await self._evaluate(engine)
        finally:
            engine.close()

    async def _evaluate(self, engine: VllmEngine) -> Evaluation:
        variants, notes = self.make(engine.routers)
        for _, steering in variants.values():
            if problems := problems_with(steering.rules, engine.routers):
                raise SteeringError("; ".join(problems))
            await engine.check(steering)
        longest = None if engine.context is None else engine.context - max(1, self.max_new_tokens)
        encoder = Encoder(self.tokenizer, chat=self.chat, max_length=longest)
        sequences = scored_sequences(list(self.prompts), encoder, self.tokenizer)
        steerings = {"": None, **{name: steering for name, (_, steering) in variants.items()}}
        self.tallies = {name: Tally(sequences, len(engine.routers)) for name in steerings}
        generating = len(self.prompts) if self.max_new_tokens else 0
        self.total = (len(sequences) + generating) * len(steerings)
        for first in range(0, len(sequences), AT_ONCE):
            await self._score(
                engine, sequences, range(first, min(first + AT_ONCE, len(sequences))), steerings
            )
        outcomes = {name: tally.outcome(list(self.prompts)) for name, tally in self.tallies.items()}
        for outcome in outcomes.values():
            outcome.positions_P[:] = 0  # no KL was measured anywhere
        if self.max_new_tokens:
            ids = [encoded.ids.tolist() for encoded in encoder.prompts(list(self.prompts))]
            for name, steering in steerings.items():
                outcomes[name].texts = list(
                    await asyncio.gather(*(self._text(engine, one, steering) for one in ids))
                )
        return evaluation_of(self.prompts, engine.routers, outcomes, variants, [*notes, NO_KL])

    async def _score(
        self,
        engine: VllmEngine,
        sequences: Sequence[Scored],
        chosen: range,
        steerings: Mapping[str, Steering | None],
    ) -> None:
        """Every chosen sequence under every steering, at once; their sums go to the tallies."""
        keys = [(name, at) for at in chosen for name in steerings]
        first, self.number = self.number, self.number + len(keys)
        logprobs = await asyncio.gather(*(
            self._logprob(engine, sequences[at], first + i, steerings[name]) for i, (name, at) in enumerate(keys)
        ))  # fmt: skip
        lengths = {first + i: len(sequences[at].encoded) for i, (_, at) in enumerate(keys)}
        ids = await self._ids(engine, first, lengths)
        base = {at: ids[first + i] for i, (name, at) in enumerate(keys) if not name}
        for i, (name, at) in enumerate(keys):
            self.tallies[name].logprob_Q[at] = logprobs[i]
            self.tallies[name].changed_QL[at] = (ids[first + i] != base[at]).any(-1).sum(0)

    async def _logprob(
        self, engine: VllmEngine, sequence: Scored, number: int, steering: Steering | None
    ) -> float:
        """Log-likelihood of the scored tokens of a sequence, nats."""
        encoded = sequence.encoded
        output = await engine.answer(
            encoded.ids.tolist(), number=number, steering=steering, prompt_length=encoded.prompt_length,
            temperature=0, prompt_logprobs=0,
        )  # fmt: skip
        self._tell()
        given = output.prompt_logprobs
        scored = np.flatnonzero(scored_tokens(encoded)).tolist()
        return float(sum(given[at][int(encoded.ids[at])].logprob for at in scored))

    async def _ids(self, engine: VllmEngine, order: int, lengths: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Sorted expert ids (T, L, K) of each request."""
        classes = {str(number): [0] * length for number, length in lengths.items()}
        rows = read_files(await engine.files(order, classes))
        found = {}
        for number, length in lengths.items():
            own = np.flatnonzero(rows.columns["request"] == number)
            if not np.array_equal(rows.columns["position"][own], np.arange(length)):
                raise CaptureError(
                    f"inside vLLM: {len(own)} of the {length} positions of a text were recorded"
                )
            found[number] = np.sort(rows.columns["ids"][own], -1)
        return found

    async def _text(self, engine: VllmEngine, ids: list[int], steering: Steering | None) -> str:
        output = await engine.answer(
            ids, steering=steering, max_new_tokens=self.max_new_tokens, temperature=0
        )
        self._tell()
        answer = output.outputs[0]
        kept = list(answer.token_ids)[: -1 if answer.finish_reason == "stop" else None]
        return self.tokenizer.decode(kept, skip_special_tokens=True)

    def _tell(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress({"done": self.done, "total": self.total})

"""What a trace is made of: the words that tracer, store and app share.

A trace is a folder of Parquet parts plus one JSON manifest. A part holds whole prompts: their rows in
`prompts`, `tokens`, `events` and `rollups` are committed together or not at all.

Shape legend: N token rows at one router, P prompts, E experts, K experts used per token.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

SCHEMA_VERSION = 3
"""3: while a long trace is being written, files beside the manifest list its last parts. 2: a phase may be `unknown`.
Versions 1 and 2 are read as they are."""
WHOLE_VERSION = 2
"""Of a manifest that lists every part."""

Scoring = Literal["softmax", "sigmoid", "softmax_topk", "sqrtsoftplus", "none"]
Capture = Literal["ids", "weights", "probability", "entropy", "logits", "output_norm", "similarity"]
CAPTURES: tuple[Capture, ...] = (
    "ids", "weights", "probability", "entropy", "logits", "output_norm", "similarity",
)  # fmt: skip
DEFAULT_CAPTURE: tuple[Capture, ...] = ("ids", "weights")


class RouterKey(NamedTuple):
    """Which router of a model. Where only layers of one stream are meant, a layer alone names it."""

    stream: str
    layer: int

    @property
    def name(self) -> str:
        """In JSON: its layer, after its stream where that is not the decoder (`vision.3`)."""
        return str(self.layer) if self.stream == "decoder" else f"{self.stream}.{self.layer}"

    def __str__(self) -> str:
        return f"layer {self.layer} ({self.stream})"


class Cell(NamedTuple):
    """One expert of one router: a cell of a routing map."""

    stream: str
    layer: int
    expert: int

    @property
    def router(self) -> RouterKey:
        return RouterKey(self.stream, self.layer)

    def __str__(self) -> str:
        """As in an address: `decoder.3.17`."""
        return f"{self.stream}.{self.layer}.{self.expert}"

    @classmethod
    def parse(cls, text: str) -> Cell | None:
        """The cell that `str` wrote, or None."""
        parts = text.rsplit(".", 2)
        if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
            return None
        return cls(parts[0], int(parts[1]), int(parts[2]))


class LayerExpert(NamedTuple):
    """A cell where the stream is known: of a ranking, a box on the map of one stream."""

    layer: int
    expert: int


@dataclass(frozen=True, kw_only=True)
class RouterSpec:
    """One router of a model: where it sits, what it chooses from, and how it scores."""

    layer: int
    """Decoder (or encoder) layer as the model numbers it, from 0."""
    stream: str = "decoder"
    """Which router of the layer: `decoder`, `encoder`, `vision`, `attention`, `task`, ..."""
    num_experts: int
    """E."""
    top_k: int | None
    """k, or None where it varies by token."""
    router: str
    """Module path of the router."""
    experts: str | None = None
    """Module path of the experts module, where there is one."""
    scoring: str = "softmax"
    """How logits become probabilities: `softmax`, `sigmoid`, `softmax_topk` (softmax over the chosen
    logits only; probabilities are then the softmax over all E), another name, or `none`."""
    steerable: bool = True
    """Whether the router's logits can be edited."""
    note: str = ""
    """Anything a reader of its figures must know."""
    found_by: str = ""
    """Which mechanism or adapter found it."""
    owners: tuple[int, ...] | None = None
    """(E,) layer that owns each expert, where a router may choose experts of other layers; None: its own."""

    @property
    def key(self) -> RouterKey:
        return RouterKey(self.stream, self.layer)

    def owner(self, expert: int) -> int:
        """The layer that owns an expert."""
        return self.layer if self.owners is None else self.owners[expert]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RouterSpec:
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        if values.get("owners") is not None:
            values["owners"] = tuple(values["owners"])
        return cls(**values)


class OfRouter:
    """What has the layer and the stream of a router."""

    layer: int
    stream: str

    @property
    def key(self) -> RouterKey:
        return RouterKey(self.stream, self.layer)


@dataclass(kw_only=True)
class RouterEvents(OfRouter):
    """The events of one router in one part, as arrays; rows sorted by (prompt, position)."""

    layer: int
    stream: str
    prompt: np.ndarray
    """(N,) int32: row number of the prompt in the part's `prompts` table."""
    position: np.ndarray
    """(N,) int32: position of the token in its prompt, from 0, padding left out."""
    experts: np.ndarray
    """(N, K) unsigned: chosen experts in descending gate weight; or flat (sum of k,) with `offsets`."""
    weights: np.ndarray | None = None
    """Gate weights in the same shape, float16 or float32; None where the router gives none."""
    offsets: np.ndarray | None = None
    """(N+1,) int64 where k varies by token: token i chose experts[offsets[i]:offsets[i+1]]."""
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    """Optional captures by column name: probability (as experts), entropy (N,), logits (N, E),
    output_norm (as experts), similarity (N,)."""


ROLLUP_KEYS = ("layer", "stream", "phase", "special", "completion")


@dataclass(kw_only=True)
class RouterSums(OfRouter):
    """Per-prompt sums at one router that need the full probabilities, from the tracer; one row per
    (prompt, phase, special, completion) that has tokens. Counts and weight sums are the store's own work."""

    layer: int
    stream: str
    prompt: np.ndarray
    """(R,) int32: row number of the prompt in the part's `prompts` table."""
    phase: np.ndarray
    """(R,) uint8: 0 prefill, 1 decode, 2 unknown."""
    special: np.ndarray
    """(R,) bool."""
    completion: np.ndarray
    """(R,) bool."""
    probability_sum: np.ndarray
    """(R, E) float32: router probabilities summed over the row's tokens; a token with NaN adds nothing."""
    entropy_sum: np.ndarray
    """(R,) float64: Shannon entropy (nats) of each token's router probabilities, summed."""
    nan_tokens: np.ndarray
    """(R,) int64: tokens whose router logits held a NaN."""


@dataclass(kw_only=True)
class RouterCounts(OfRouter):
    """Counts of a router of which no single events are known (an engine's statistics)."""

    layer: int
    stream: str
    prompt: np.ndarray
    """(R,) int32, rising: row number of the prompt in the part's `prompts` table."""
    tokens: np.ndarray
    """(R,) int64: tokens that passed the router."""
    count: np.ndarray
    """(R, E): tokens that chose each expert."""
    weight_sum: np.ndarray | None = None
    """(R, E): sums of gate weights, where they are known."""


@dataclass(kw_only=True)
class Part:
    """Whole prompts with everything that was recorded of them: the unit that is committed."""

    prompts: pa.Table
    """Columns of `PROMPTS`, a row a prompt, in the order that `prompt` keys count."""
    tokens: pa.Table
    """Columns of `TOKENS` with `prompt` (int32 row number) instead of prompt_id."""
    events: list[RouterEvents]
    sums: list[RouterSums] = field(default_factory=list)
    """Empty where the probabilities are unknown (imports)."""
    counts: list[RouterCounts] = field(default_factory=list)
    """For routers without events."""


PROMPTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("group", pa.string()),
        ("parallel_id", pa.string()),
        ("completion", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.int32()),
        ("tags", pa.map_(pa.string(), pa.string())),
        ("generated", pa.string()),
        ("choice_logprobs", pa.list_(pa.float64())),
        ("correct", pa.bool_()),
    ]
)
"""One row a prompt. `answer` is the index of the right choice; `generated`, `choice_logprobs` and
`correct` are what the model did."""

TOKENS = pa.schema(
    [
        ("prompt", pa.int32()),
        ("position", pa.int32()),
        ("token_id", pa.int32()),
        ("token", pa.string()),
        ("phase", pa.string()),
        ("special", pa.bool_()),
        ("completion", pa.bool_()),
    ]
)
"""One row a token: `phase` is prefill, decode or (where nobody recorded it) unknown; `special` marks special
and template tokens, `completion` the teacher-forced span."""

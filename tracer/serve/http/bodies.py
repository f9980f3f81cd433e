"""What a request may say, as pydantic models: read by the check of a body and by the OpenAPI description alike."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from ....store.schema import CAPTURES, DEFAULT_CAPTURE, Capture
from ..limits import Limits

Text = Annotated[str, Field(min_length=1)]
Profile = dict[str, Any] | None
Switch = Annotated[bool, Field(strict=True)]
"""Strict, as all numbers are: `"yes"` is no boolean, `true` no number."""
Dose = Annotated[float, Field(strict=True, ge=-1e6, le=1e6)]
Index = Annotated[int, Field(strict=True, ge=0)]
PROFILE = "A steering profile, as `Steering.to_json` writes it; null for none."
COMPARE = "Also run without the steering, and compare the two."
CHAT = "Apply the model's chat template to the prompts."
TRACE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class Body(BaseModel):
    """The fields of a request and no others."""

    model_config = ConfigDict(extra="forbid")


class Message(Body):
    role: Text
    content: str


class PromptRow(BaseModel):
    """A text, or a row of a prompt set; other columns are tags."""

    model_config = ConfigDict(extra="allow")
    text: Text
    id: str | None = None
    language: str | None = None
    group: str | None = None
    parallel_id: str | None = None
    completion: str | None = None
    choices: list[Text] | None = Field(None, min_length=2)
    answer: Index | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, row: Any) -> Any:
        return {"text": row} if isinstance(row, str) else row

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        row = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [{"type": "string", "minLength": 1}, row]}


class DoseCurve(Body):
    """Of `steering`: its amount at these values, or with a `ranking` of [layer, expert] pairs its first rule on that
    many of them; `draws` random ones beside each."""

    values: list[Dose] = Field(min_length=1, max_length=50)
    ranking: list[Annotated[list[Index], Field(min_length=2, max_length=2)]] | None = Field(
        None, min_length=1, max_length=100_000
    )
    draws: int = Field(0, strict=True, ge=0, le=20)


class Spoken(Body):
    """A text to begin with, or a conversation for the model's chat template."""

    prompt: Text | None = Field(None, description="A text; instead of `messages`.")
    messages: list[Message] | None = Field(
        None, min_length=1, description="A conversation for the model's chat template; instead of `prompt`."
    )


class Tokenize(Spoken):
    text: Text | None = Field(None, description="The same as `prompt`.")


class Rewire(Spoken):
    steering: Profile = Field(
        None, description="A profile that acts before the vectors while they are learned."
    )
    start: Profile = Field(None, description="An earlier answer's `steering`, to go on from; null: zero.")
    steps: int = Field(
        5, strict=True, ge=0, le=100,
        description="Steps of plain gradient descent; 0 gives vectors of zeros.",
    )  # fmt: skip
    learning_rate: float = Field(0.05, strict=True, ge=0, le=1000, description="Learning rate of every step.")
    layers: Literal["all", "most_confident", "least_confident"] = Field(
        "all", description="All layers, or the half whose choices are the most or the least confident."
    )


def request_models(limits: Limits) -> dict[str, type[Body]]:
    """The model of each request body by name; some bounds are this server's limits."""
    few = Field(min_length=1, max_length=limits.score_prompts)
    many = Field(min_length=1, max_length=limits.job_prompts)

    class Generate(Spoken):
        steering: Profile = Field(None, description=PROFILE)
        compare: Switch = Field(False, description=COMPARE)
        max_new_tokens: int = Field(
            64, strict=True, ge=1, le=limits.new_tokens, description="Maximum tokens per side."
        )
        temperature: float = Field(0.0, strict=True, ge=0, le=100, description="0 takes the likeliest token.")
        top_p: float = Field(
            1.0, strict=True, gt=0, le=1,
            description="Sample among the likeliest tokens that hold this probability.",
        )  # fmt: skip
        seed: int = Field(
            0, strict=True, ge=0, le=2**63 - 1,
            description="Seed; each side draws from its own generator.",
        )  # fmt: skip
        stream: Switch = Field(True, description="Server-sent events, or one JSON.")
        candidates: int = Field(
            0, strict=True, ge=0, le=20, description="Likeliest next tokens to report per step and model."
        )
        positions: Switch = Field(
            False, description="With `compare`: the last event also reports every prompt token."
        )

    class Score(Body):
        prompts: list[PromptRow] = few
        steering: Profile = Field(None, description=PROFILE)
        compare: Switch = Field(False, description=COMPARE)
        chat: Switch = Field(False, description=CHAT)
        positions: Switch = Field(False, description="Also the numbers of every scored token.")

    class Evaluate(Body):
        prompts: list[PromptRow] = many
        steering: Profile = Field(None, description=PROFILE)
        variants: dict[str, dict[str, Any]] = Field(
            {}, description="Further profiles by name, as the doses of a dose curve."
        )
        dose: DoseCurve | None = None
        controls: int = Field(
            5, strict=True, ge=0, le=50,
            description="Random-expert controls; a finding needs at least 5, 0 runs none.",
        )  # fmt: skip
        seed: int = Field(0, strict=True, ge=0, le=2**31 - 1, description="Seed of the draws.")
        by: str | None = Field(None, description="Column to split effects by.")
        target: str | None = Field(None, description="A value of `by`: also its effect minus the others'.")
        chat: Switch = Field(False, description=CHAT)
        max_new_tokens: int = Field(
            0, strict=True, ge=0, le=limits.new_tokens, description="Also generate, for response classes."
        )

    class Trace(Body):
        prompts: list[PromptRow] = many
        name: str = Field(pattern=TRACE_NAME, description="Folder of the new trace in the server's library.")
        steering: Profile = Field(None, description=PROFILE)
        capture: list[Capture] = Field(list(DEFAULT_CAPTURE), description=f"Of {', '.join(CAPTURES)}.")
        batch_tokens: int = Field(
            2048,
            strict=True,
            ge=1,
            le=1 << 20,
            description="Padded tokens in a batch; other requests wait for at most one batch.",
        )
        max_new_tokens: int = Field(
            0, strict=True, ge=0, le=limits.new_tokens, description="Tokens to generate after each prompt."
        )
        chat: Switch = Field(False, description=CHAT)
        resume: Switch = Field(False, description="Continue a partial trace.")

    return {model.__name__: model for model in (Tokenize, Generate, Score, Rewire, Evaluate, Trace)}

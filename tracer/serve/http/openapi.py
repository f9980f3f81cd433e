"""The OpenAPI description, made of the models that requests are checked against, and of those of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

ERRORS = {
    "400": "A field is missing, unknown or wrong; `field` names it",
    "401": "No token, or not this server's",
    "413": "The body or the prompt is too long",
    "422": "The steering names a rule, layer or expert that does not exist",
    "429": "Too many requests are waiting; Retry-After says when to try again",
    "503": "The model is being loaded, or its process failed",
}

CANDIDATES = "If asked for: by model, the likeliest next tokens as [id, token, logprob]."


class Failure(BaseModel):
    status: int
    message: str
    field: str | None = None


class Error(BaseModel):
    error: Failure


Experts = dict[str, list[int]]


class TokenEvent(BaseModel):
    """One new token of one side."""

    side: Literal["base", "steered"]
    index: int = Field(description="0 for the first new token of this side.")
    token_id: int
    token: str = Field(description="This token by itself.")
    text: str = Field(description="What it adds to the text; empty within a character.")
    logprob: float | None = Field(description="Under this side's model, at temperature 1.")
    experts: Experts = Field(
        description="By layer, the experts of the forward pass that predicted this token, at the last position before "
        "it, in descending gate weight. Other streams than decoder: `stream.layer`."
    )
    kl: float | None = Field(
        description="KL(base || steered) in nats of the next-token distributions, both given this side's own text so "
        "far. Null unless compared."
    )
    changed: list[str] | None = Field(
        None, description="With `compare`: layers whose expert set the steering changed at this position."
    )
    candidates: dict[str, Any] | None = Field(None, description=CANDIDATES)


class SideResult(BaseModel):
    text: str
    token_ids: list[int]
    count: int
    finish: Literal["stop", "length"]
    mean_kl: float | None = None


class PromptPosition(BaseModel):
    """One token of the prompt."""

    position: int = Field(description="Position in the prompt, from 0; position 0 is never predicted.")
    token_id: int
    token: str
    logprob: dict[str, float | None] = Field(
        description="Log-probability of this token in nats, by model: `base`, `steered`."
    )
    kl: float | None = Field(
        description="KL(base || steered) in nats of the distributions that predict this token."
    )
    experts: dict[str, Experts] = Field(
        description="By model, then by layer: the experts at the position before, which predicted this token."
    )
    changed: list[str]
    candidates: dict[str, Any] | None = Field(None, description=CANDIDATES)


class EndEvent(BaseModel):
    """The last event of a generation."""

    done: Literal[True]
    prompt_tokens: int
    base: SideResult | None = None
    steered: SideResult | None = None
    kl_floor: float | None = Field(
        None, description="With `compare`: the KL in nats that rounding alone may cause here."
    )
    prompt_positions: list[PromptPosition] | None = Field(None, description="With `positions: true`.")
    prompt_note: str | None = Field(
        None, description="With `prompt_positions`: which prompt tokens are missing, and why."
    )


def describe(bodies: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """OpenAPI 3.1 of the server; `bodies` are the models of the requests by name."""
    _, described = models_json_schema(
        [(model, "validation") for model in (*bodies.values(), TokenEvent, EndEvent, Error)],
        ref_template="#/components/schemas/{model}",
    )
    events = [{"$ref": f"#/components/schemas/{name}"} for name in ("TokenEvent", "EndEvent")]
    stream = {"text/event-stream": {"schema": {"anyOf": events}}, **_json()}
    paths = {
        "/health": {"get": {**_operation("Whether the model is loaded", _json()), "security": []}},
        "/openapi.json": {"get": _operation("This description", _json())},
        "/v1/model": {"get": _operation("Model card, routers and limits", _json())},
        "/v1/tokenize": {"post": _operation("Token ids of a text", _json(), "Tokenize")},
        "/v1/generate": {
            "post": _operation(
                "Generate, steered or not, or both side by side: an event per token, then one with `done`",
                stream,
                "Generate",
            )
        },
        "/v1/score": {
            "post": _operation("Perplexity, or accuracy where there are choices", _json(), "Score")
        },
        "/v1/rewire": {
            "post": _operation(
                "Learn logit vectors on a text (arXiv 2510.14853): a profile with a `vector` rule, and the loss of the "
                "text before every step and after the last",
                _json(),
                "Rewire",
            )
        },
        **_job("trace", "Record the routing of a prompt set as a trace on the server's machine"),
        **_job("evaluate", "Measure the effect of a steering over a prompt set, with its controls"),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "moescope serve", "version": "1"},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": described["$defs"],
        },
    }


def _json() -> dict[str, Any]:
    return {"application/json": {"schema": {"type": "object"}}}


def _operation(
    summary: str, content: dict[str, Any], body: str | None = None, status: str = "200"
) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    answers = {status: {"description": summary, "content": content}}
    answers |= {code: {"description": text, "content": error} for code, text in ERRORS.items()}
    operation: dict[str, Any] = {"summary": summary, "responses": answers}
    if body is not None:
        schema = {"$ref": f"#/components/schemas/{body}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _job(kind: str, summary: str) -> dict[str, Any]:
    """The four operations of a background job."""
    parameter = {"name": "job_id", "in": "path", "required": True, "schema": {"type": "string"}}
    one = {
        "parameters": [parameter],
        "get": _operation("State, progress, and the result when there is one", _json()),
        "delete": _operation("Cancel before its next step", _json()),
    }
    many = {
        "post": _operation(summary, _json(), kind.capitalize(), "202"),
        "get": _operation("All jobs that this server keeps", _json()),
    }
    return {f"/v1/{kind}": many, f"/v1/{kind}/{{job_id}}": one}

"""The OpenAPI description, made of the schemas that requests are checked against."""

from __future__ import annotations

from typing import Any

from .schemas import Schema

ERRORS = {
    "400": "A field is missing, unknown or wrong; `field` names it",
    "401": "No token, or not this server's",
    "413": "The body or the prompt is too long",
    "422": "The steering names a rule, layer or expert that does not exist",
    "429": "Too many requests wait; Retry-After says when to come back",
    "503": "The model is being loaded, or its process failed",
}

ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["status", "message"],
            "properties": {
                "status": {"type": "integer"},
                "message": {"type": "string"},
                "field": {"type": "string"},
            },
        }
    },
}

TOKEN_EVENT: Schema = {
    "type": "object",
    "required": ["side", "index", "token_id", "token", "text", "logprob", "experts", "kl"],
    "properties": {
        "side": {"enum": ["base", "steered"]},
        "index": {"type": "integer", "description": "0 for the first new token of this side."},
        "token_id": {"type": "integer"},
        "token": {"type": "string", "description": "This token by itself."},
        "text": {"type": "string", "description": "What it adds to the text; empty within a character."},
        "logprob": {"type": ["number", "null"], "description": "Under this side's model, at temperature 1."},
        "experts": {
            "type": "object",
            "description": "By layer, the experts of the forward pass that predicted this token, at the last "
            "position before it, in descending gate weight. Other streams than decoder: `stream.layer`.",
            "additionalProperties": {"type": "array", "items": {"type": "integer"}},
        },
        "kl": {
            "type": ["number", "null"],
            "description": "KL(base || steered) in nats of the next-token distributions, both given this "
            "side's own text so far. Null unless compared.",
        },
        "changed": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Compared only: layers whose expert set the steering changed at this position.",
        },
        "candidates": {
            "type": "object",
            "description": "If asked for: by model, the likeliest next tokens as [id, token, logprob].",
        },
    },
}

SIDE_RESULT: Schema = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "token_ids": {"type": "array", "items": {"type": "integer"}},
        "count": {"type": "integer"},
        "finish": {"enum": ["stop", "length"]},
        "mean_kl": {"type": ["number", "null"]},
    },
}
PROMPT_POSITION: Schema = {
    "type": "object",
    "required": ["position", "token_id", "token", "logprob", "kl", "experts", "changed"],
    "properties": {
        "position": {"type": "integer", "description": "In the prompt, from 0; 0 itself is never predicted."},
        "token_id": {"type": "integer"},
        "token": {"type": "string"},
        "logprob": {"type": "object", "description": "Of this token, by model: `base`, `steered`."},
        "kl": {
            "type": ["number", "null"],
            "description": "KL(base || steered) in nats of the distributions that predict this token.",
        },
        "experts": {
            "type": "object",
            "description": "By model, then by layer: the experts at the position before, which predicted this token.",
        },
        "changed": {"type": "array", "items": {"type": "string"}},
        "candidates": TOKEN_EVENT["properties"]["candidates"],
    },
}
END_EVENT: Schema = {
    "type": "object",
    "required": ["done", "prompt_tokens"],
    "properties": {
        "done": {"const": True},
        "prompt_tokens": {"type": "integer"},
        "base": SIDE_RESULT,
        "steered": SIDE_RESULT,
        "kl_floor": {
            "type": ["number", "null"],
            "description": "Of a comparison: KL in nats that rounding alone may show here.",
        },
        "prompt_positions": {
            "type": "array",
            "items": PROMPT_POSITION,
            "description": "If `positions` were asked for.",
        },
        "prompt_note": {
            "type": ["string", "null"],
            "description": "With `prompt_positions`: why they are not of every token that something predicts.",
        },
    },
}


def describe(schemas: dict[str, Schema]) -> dict[str, Any]:
    """OpenAPI 3.1 of the server; `schemas` are the request bodies by name."""
    events = [{"$ref": f"#/components/schemas/{name}"} for name in ("TokenEvent", "EndEvent")]
    stream = {"text/event-stream": {"schema": {"anyOf": events}}, **_json()}
    paths = {
        "/health": {"get": {**_operation("Whether the model is there", _json()), "security": []}},
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
        **_job("evaluate", "What a steering does over a prompt set, beside its controls"),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "moescope serve", "version": "1"},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {**schemas, "TokenEvent": TOKEN_EVENT, "EndEvent": END_EVENT, "Error": ERROR},
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
        "get": _operation("All that this server remembers", _json()),
    }
    return {f"/v1/{kind}": many, f"/v1/{kind}/{{job_id}}": one}

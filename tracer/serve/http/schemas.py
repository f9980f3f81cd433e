"""What a request may say, as JSON Schema: read by the validator and by the OpenAPI description alike."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

from ....store.schema import CAPTURES, DEFAULT_CAPTURE
from ..errors import ApiError
from ..limits import Limits

Schema = dict[str, Any]

PROFILE: Schema = {
    "type": ["object", "null"],
    "description": "A steering profile, as `Steering.to_json` writes it; null for none.",
}
COMPARE: Schema = {
    "type": "boolean",
    "default": False,
    "description": "Also run without the steering, and compare the two.",
}
DOSE: Schema = {
    "type": ["object", "null"],
    "default": None,
    "required": ["values"],
    "properties": {
        "values": {
            "type": "array",
            "minItems": 1,
            "maxItems": 50,
            "items": {"type": "number", "minimum": -1e6, "maximum": 1e6},
        },
        "ranking": {
            "type": "array",
            "minItems": 1,
            "maxItems": 100_000,
            "items": {
                "type": "array",
                "minItems": 2,
                "maxItems": 2,
                "items": {"type": "integer", "minimum": 0},
            },
        },
        "draws": {"type": "integer", "minimum": 0, "maximum": 20, "default": 0},
    },
    "additionalProperties": False,
    "description": "A dose curve of `steering`: its amount at these values, or with a `ranking` of [layer, expert] "
    "pairs its first rule on that many of them; `draws` random ones beside each.",
}
CHAT: Schema = {
    "type": "boolean",
    "default": False,
    "description": "Put the prompts through the model's chat template.",
}
MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"type": "string", "minLength": 1}, "content": {"type": "string"}},
        "additionalProperties": False,
    },
    "description": "A conversation for the model's chat template; instead of `prompt`.",
}
PROMPT_ROW: Schema = {
    "type": ["string", "object"],
    "minLength": 1,
    "required": ["text"],
    "properties": {
        "text": {"type": "string", "minLength": 1},
        "id": {"type": "string"},
        "language": {"type": "string"},
        "group": {"type": "string"},
        "parallel_id": {"type": "string"},
        "completion": {"type": ["string", "null"]},
        "choices": {"type": ["array", "null"], "minItems": 2, "items": {"type": "string", "minLength": 1}},
        "answer": {"type": ["integer", "null"], "minimum": 0},
    },
    "description": "A text, or a row of a prompt set; other columns are tags.",
}


def request_schemas(limits: Limits) -> dict[str, Schema]:
    """The schema of each request body by name."""
    return {
        "Tokenize": _object(
            {"text": _text("The text."), "prompt": _text("The same as `text`."), "messages": MESSAGES}
        ),
        "Generate": _object(
            {
                "prompt": _text("The text to continue."),
                "messages": MESSAGES,
                "steering": PROFILE,
                "compare": COMPARE,
                "max_new_tokens": _integer(1, limits.new_tokens, 64, "Most tokens per side."),
                "temperature": _number(0, 100, 0.0, "0 takes the likeliest token."),
                "top_p": {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": 1,
                    "default": 1.0,
                    "description": "Sample among the likeliest tokens that hold this probability.",
                },
                "seed": _integer(0, 2**63 - 1, 0, "Each side draws from its own generator with this seed."),
                "stream": {
                    "type": "boolean",
                    "default": True,
                    "description": "Server-sent events, or one JSON.",
                },
                "candidates": _integer(0, 20, 0, "Likeliest next tokens to report per step and model."),
                "positions": {
                    "type": "boolean",
                    "default": False,
                    "description": "Compared only: the last event also tells of every token of the prompt.",
                },
            }
        ),
        "Score": _object(
            {
                "prompts": _prompts(limits.score_prompts),
                "steering": PROFILE,
                "compare": COMPARE,
                "chat": CHAT,
                "positions": {
                    "type": "boolean",
                    "default": False,
                    "description": "Also the numbers of every scored token.",
                },
            },
            required=["prompts"],
        ),
        "Rewire": _object(
            {
                "prompt": _text("The text to learn from."),
                "messages": MESSAGES,
                "steering": PROFILE | {"description": "A profile that acts before the vectors meanwhile."},
                "start": PROFILE
                | {"description": "An earlier answer's `steering`, to go on from; null: zero."},
                "steps": _integer(0, 100, 5, "Steps of plain gradient descent; 0 gives vectors of zeros."),
                "learning_rate": _number(0, 1000, 0.05, "Of every step."),
                "layers": {
                    "enum": ["all", "most_confident", "least_confident"],
                    "default": "all",
                    "description": "All layers, or the half whose choices are the most or the least confident.",
                },
            }
        ),
        "Evaluate": _object(
            {
                "prompts": _prompts(limits.job_prompts),
                "steering": PROFILE,
                "variants": {
                    "type": "object",
                    "default": {},
                    "additionalProperties": {"type": "object"},
                    "description": "Further profiles by name, as the doses of a dose curve.",
                },
                "dose": DOSE,
                "controls": _integer(
                    0, 50, 5, "Random draws; below 5 nothing is a finding, 0 is no control."
                ),
                "seed": _integer(0, 2**31 - 1, 0, "Of the draws."),
                "by": {
                    "type": ["string", "null"],
                    "default": None,
                    "description": "Column to split effects by.",
                },
                "target": {
                    "type": ["string", "null"],
                    "default": None,
                    "description": "A value of `by`: also its effect minus the others'.",
                },
                "chat": CHAT,
                "max_new_tokens": _integer(0, limits.new_tokens, 0, "Also generate, for response classes."),
            },
            required=["prompts"],
        ),
        "Trace": _object(
            {
                "prompts": _prompts(limits.job_prompts),
                "name": {
                    "type": "string",
                    "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
                    "description": "Folder of the new trace in the server's library.",
                },
                "steering": PROFILE,
                "capture": {
                    "type": "array",
                    "items": {"enum": list(CAPTURES)},
                    "default": list(DEFAULT_CAPTURE),
                },
                "batch_tokens": _integer(
                    1, 1 << 20, 2048, "Padded tokens in a batch; others wait for one batch."
                ),
                "max_new_tokens": _integer(0, limits.new_tokens, 0, "Tokens to generate after each prompt."),
                "chat": CHAT,
                "resume": {"type": "boolean", "default": False, "description": "Go on with a partial trace."},
            },
            required=["prompts", "name"],
        ),
    }


def _object(properties: dict[str, Schema], required: list[str] | None = None) -> Schema:
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def _text(description: str) -> Schema:
    return {"type": "string", "minLength": 1, "description": description}


def _integer(low: int, high: int, default: int, description: str) -> Schema:
    return {
        "type": "integer", "minimum": low, "maximum": high, "default": default, "description": description,
    }  # fmt: skip


def _number(low: float, high: float, default: float, description: str) -> Schema:
    return {
        "type": "number", "minimum": low, "maximum": high, "default": default, "description": description,
    }  # fmt: skip


def _prompts(most: int) -> Schema:
    return {"type": "array", "minItems": 1, "maxItems": most, "items": PROMPT_ROW}


def parse(body: bytes, schema: Schema) -> dict[str, Any]:
    """A request body with its defaults filled in. Raises `ApiError` 400 that names the field."""
    data = decode_json(body)
    errors = sorted(
        Draft202012Validator(schema).iter_errors(data), key=lambda error: list(map(str, error.path))
    )
    if errors:
        field = field_of(errors[0])
        raise ApiError(400, f"{field or 'the body'}: {_explain(errors[0])}", field=field or None)
    filled = {name: part["default"] for name, part in schema["properties"].items() if "default" in part}
    return {**filled, **data}


def decode_json(body: bytes) -> Any:
    """JSON text as Python values. Raises `ApiError` 400: not JSON, NaN or Infinity, lone surrogates."""
    try:
        data = json.loads(body, parse_constant=_no_constant)
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError(400, "the body holds half a surrogate pair, which is no character") from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {str(error)[:200]}") from None
    return data


def exactly_one(request: dict[str, Any], *names: str) -> str:
    """Which of these fields is given. Raises `ApiError` 400 unless it is exactly one."""
    given = [name for name in names if request.get(name) is not None]
    if len(given) != 1:
        wanted = " or ".join(f"`{name}`" for name in names)
        raise ApiError(400, f"give exactly one of {wanted}", field=given[-1] if given else names[0])
    return given[0]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def field_of(error: ValidationError) -> str:
    """The part of the request that an error is about, as `prompts[3].text`."""
    path, value = list(error.absolute_path), error.instance
    known: Any = error.schema
    if error.validator == "additionalProperties" and isinstance(value, dict):
        path.append(min(set(value) - set(known["properties"])))
    if error.validator == "required" and isinstance(value, dict):
        path.append(next(name for name in known["required"] if name not in value))
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".")[:200]


def _explain(error: ValidationError) -> str:
    value: Any = error.instance
    limit: Any = error.validator_value
    schema: Any = error.schema
    match error.validator:
        case "required":
            return "is missing"
        case "additionalProperties":
            return f"is not known here; known are {', '.join(sorted(schema['properties']))}"
        case "type":
            kinds = [limit] if isinstance(limit, str) else limit
            return f"must be {' or '.join(kinds)}, not {type(value).__name__}"
        case "minLength" | "minItems":
            return f"needs at least {limit}"
        case "pattern":
            return "must be letters, digits, dots, dashes and underscores, and begin with a letter or digit"
        case "enum":
            return f"must be one of {', '.join(map(str, limit))}"
        case "maxItems":
            return f"has {len(value)} entries; at most {limit} are allowed"
        case "minimum" | "exclusiveMinimum" | "maximum":
            bound = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
            return f"must be {bound[str(error.validator)]} {limit}, not {str(value)[:40]}"
        case _:
            return error.message[:200]

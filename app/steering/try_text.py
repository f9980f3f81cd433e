"""A text that is typed runs through a live model: which experts every token of it chooses.

The server tells the experts of each position beside a comparison (`positions`): those of the pass that read the token
before. So the experts of a position are told by the entry after it, and those of the last one by the first new token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ...store import RouterSpec
from ...tracer.client import Client

SCHEMA = pa.schema(
    [
        ("position", pa.int32()), ("token_id", pa.int32()), ("token", pa.string()), ("phase", pa.string()),
        ("special", pa.bool_()), ("completion", pa.bool_()), ("layer", pa.int32()), ("stream", pa.string()),
        ("experts", pa.list_(pa.int32())),
    ]
)  # fmt: skip


def routing_of(client: Client, text: str, routers: Sequence[RouterSpec], stream: str) -> tuple[pa.Table, str]:
    """The routing of a text in the columns of the view `prompt-tokens`, and why it is not all of it.

    Args:
        routers: of the model that answers; those of `stream` are told of.
    Returns:
        A row a token and layer, experts in descending gate weight; and a note, empty where nothing is left out.
    Raises:
        ServerError: the model refuses the text, or does not answer.
    """
    read = client.tokenize(text)
    first: Mapping[str, Any] | None = None
    done: Mapping[str, Any] = {}
    with client.generate(text, compare=True, positions=True, max_new_tokens=1) as events:
        for event in events:
            if event.get("done"):
                done = event
            elif event["side"] == "base" and first is None:
                first = event
    told = done.get("prompt_positions") or []
    experts = {entry["position"] - 1: entry["experts"]["base"] for entry in told}
    if first is not None:
        experts[done["prompt_tokens"] - 1] = first["experts"]
    tokens = {entry["position"]: (entry["token_id"], entry["token"]) for entry in told}
    tokens[0] = (read["ids"][0], read["tokens"][0])
    specs = [spec for spec in routers if spec.stream == stream]
    rows = [
        _row(position, tokens.get(position, (None, "")), spec, of_position[spec.key.name])
        for position, of_position in sorted(experts.items())
        for spec in specs
        if spec.key.name in of_position
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA), str(done.get("prompt_note") or "")


def _row(
    position: int, token: tuple[int | None, str], spec: RouterSpec, experts: list[int]
) -> dict[str, Any]:
    return {
        "position": position, "token_id": token[0], "token": token[1], "phase": "prefill", "special": False,
        "completion": False, "layer": spec.layer, "stream": spec.stream,
        "experts": experts,
    }  # fmt: skip

# pyright: reportArgumentType=false, reportIncompatibleMethodOverride=false
"""Attach: what a server returns is what the trace holds, against a server that answers as vLLM and SGLang do."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np
import pytest

from moescope.app.cli.commands import run as command
from moescope.store import open_trace
from moescope.tracer import PromptSet
from moescope.tracer.engines.attach import AttachError, attach

LAYERS, K, EXPERTS = 3, 2, 8
PROMPTS = PromptSet.from_rows(
    [
        {"id": "a", "text": "one two three", "language": "en", "topic": "numbers"},
        {"id": "b", "text": "un deux", "language": "fr", "topic": "numbers"},
    ]
)


def experts_of(tokens: list[int]) -> np.ndarray:
    """What the made-up model chooses: [tokens, layers, k], by the token and the layer alone."""
    first = (np.array(tokens)[:, None] + np.arange(LAYERS)) % EXPERTS
    return np.stack([first, (first + 3) % EXPERTS], -1).astype(np.uint8)


def words(text: str) -> list[int]:
    return [len(word) + 10 * i for i, word in enumerate(text.split())]


class Handler(BaseHTTPRequestHandler):
    kind = "vllm"
    routing = True
    salts: ClassVar[list[str]] = []
    keys: ClassVar[list[str | None]] = []

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        known = {
            "vllm": {"/v1/models": {"data": [{"id": "m"}]}},
            "sglang": {"/get_model_info": {"model_path": "m"}},
        }
        answer = known[self.kind].get(self.path)
        self._send(200 if answer else 404, answer or {"error": "no such path"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.keys.append(self.headers["Authorization"])
        new = [7] * (body.get("max_tokens") or body["sampling_params"]["max_new_tokens"])
        prompt = words(body.get("prompt") or body["text"])
        chosen = experts_of([*prompt, *new][:-1])
        if self.path == "/v1/completions":
            self.salts.append(body["cache_salt"])
            file = io.BytesIO()
            np.save(file, chosen)
            routed = base64.b64encode(file.getvalue()).decode() if self.routing else None
            choice = {"text": " x", "prompt_token_ids": prompt, "token_ids": new, "routed_experts": routed}
            return self._send(200, {"id": "cmpl-1", "choices": [choice]})
        routed = base64.b64encode(chosen.astype(np.int32).tobytes()).decode()
        meta = {"id": "x", "prompt_tokens": len(prompt), "routed_experts": routed}
        self._send(200, {"text": " x", "output_ids": new, "meta_info": meta})

    def _send(self, code: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def served(kind: str, routing: bool = True) -> Iterator[tuple[str, Any]]:
    handler = type("Own", (Handler,), {"kind": kind, "routing": routing, "salts": [], "keys": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("kind", "shape"), [("vllm", {}), ("sglang", {"num_layers": LAYERS, "top_k": K})])
def test_a_trace_holds_what_the_server_returned(kind: str, shape: dict[str, int], tmp_path: Any) -> None:
    out = str(tmp_path / "trace")
    with served(kind) as (url, _):
        made = attach(url, PROMPTS, out, max_new_tokens=2, experts=EXPERTS, **shape)
    trace = open_trace(out)
    assert made.prompts == 2
    for prompt in PROMPTS:
        tokens = [*words(prompt.text), 7]
        events = trace.events(prompt_id=prompt.id)
        rows = zip(*(events[name].to_pylist() for name in ("position", "layer", "experts")), strict=True)
        found = {(position, layer): chosen for position, layer, chosen in rows}
        expected = experts_of(tokens)
        places = [(position, layer) for position in range(len(tokens)) for layer in range(LAYERS)]
        assert found == {place: expected[place].tolist() for place in places}
    prompts = trace.prompts()
    assert prompts["language"].to_pylist() == ["en", "fr"]
    assert prompts["text"].to_pylist() == [prompt.text for prompt in PROMPTS]
    assert dict(prompts["tags"].to_pylist()[0])["topic"] == "numbers"


def test_every_prompt_has_a_salt_of_its_own_and_the_key(tmp_path: Any) -> None:
    """Else a prefix that an earlier prompt has computed has no routing."""
    with served("vllm") as (url, handler):
        attach(url, PROMPTS, str(tmp_path / "trace"), key="secret")
    assert len(set(handler.salts)) == 2
    assert handler.keys == ["Bearer secret"] * 2


def test_without_routing_nothing_is_written(tmp_path: Any, capsys: Any) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("id,text\na,one two\n")
    with served("vllm", routing=False) as (url, _):
        assert command(["attach", url, str(file), "--out", str(tmp_path / "trace")]) == 1
    assert "--enable-return-routed-experts" in capsys.readouterr().err
    assert not (tmp_path / "trace").exists()


def test_a_chat_is_not_sent_as_if_it_were_a_text(tmp_path: Any) -> None:
    chat = PromptSet.from_rows([{"id": "a", "messages": [{"role": "user", "content": "hi"}]}])
    with pytest.raises(AttachError, match="'a' is a chat"):
        attach("http://127.0.0.1:1", chat, str(tmp_path / "trace"))


def test_an_address_where_nobody_answers_is_named(tmp_path: Any) -> None:
    with pytest.raises(AttachError, match=r"http://127\.0\.0\.1:1"):
        attach("http://127.0.0.1:1", PROMPTS, str(tmp_path / "trace"))

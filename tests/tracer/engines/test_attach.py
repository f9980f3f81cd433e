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
from moescope.store.errors import ImportRefused
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
    spoilt: Any = None
    """From an answer and its bytes: status, bytes, and how many more are promised."""
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
        data, promised = json.dumps(body).encode(), 0
        if self.spoilt is not None and self.command == "POST":
            code, data, promised = self.spoilt(body, data)
        self.send_response(code)
        self.send_header("Content-Length", str(len(data) + promised))
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


def shorter(body: Any, data: bytes) -> tuple[int, bytes, int]:
    """The routing of one token less than passed the model."""
    place = body["choices"][0] if "choices" in body else body["meta_info"]
    routed = base64.b64decode(place["routed_experts"])
    if "choices" in body:
        file = io.BytesIO()
        np.save(file, np.load(io.BytesIO(routed))[:-1])
        place["routed_experts"] = base64.b64encode(file.getvalue()).decode()
    else:
        place["routed_experts"] = base64.b64encode(routed[: -4 * LAYERS * K]).decode()
    return 200, json.dumps(body).encode(), 0


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (shorter, r"\d tokens have experts, but \d went through the model"),
        (lambda body, data: (500, b"no memory", 0), "HTTP 500: no memory"),
        (lambda body, data: (200, b"<html>", 0), "Expecting value"),
        (lambda body, data: (200, data[:40], len(data) - 40), "IncompleteRead|more expected"),
        (lambda body, data: (200, b"[1]", 0), "the answer to prompt 'a' is not of the expected form"),
        (lambda body, data: (200, b'{"choices": [], "meta_info": 3}', 0), "not of the expected form"),
    ],
    ids=["short", "500", "no JSON", "half", "a list", "empty"],
)
@pytest.mark.parametrize("new", [0, 2])
def test_what_is_no_whole_answer_ends_in_words_and_writes_nothing(
    kind: str, spoilt: Any, words: str, new: int, tmp_path: Any
) -> None:
    shape = {"num_layers": LAYERS, "top_k": K} if kind == "sglang" else {}
    with served(kind) as (url, handler):
        handler.spoilt = staticmethod(spoilt)
        with pytest.raises((AttachError, ImportRefused), match=words):
            attach(url, PROMPTS, str(tmp_path / "trace"), experts=EXPERTS, max_new_tokens=new, **shape)
    assert not (tmp_path / "trace").exists()

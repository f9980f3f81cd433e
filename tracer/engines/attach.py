"""A trace from a server that somebody else runs: prompts are sent, answers with routing are read.

1. The server is asked what it is: vLLM (its OpenAI address) or SGLang (/generate).
2. Every prompt is sent with the wish for its routed experts. To vLLM each goes with a salt of its own, so that no token
   is left out because an earlier prompt had computed it.
3. The answers are what `store.importers` reads: they alone decide what is recorded, and nothing is guessed.
"""

from __future__ import annotations

import http.client
import json
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...store.importers import run
from ...store.importers.engines import ROUTED_KEY
from ..errors import TracerError
from ..prompts.prompt_set import Prompt, PromptSet

if TYPE_CHECKING:
    from ...store.importers.build import Imported

Kind = Literal["vllm", "sglang"]
SWITCH = {"vllm": "--enable-return-routed-experts", "sglang": "--enable-return-routed-experts"}
"""What a server must have been started with."""
TIMEOUT = 600.0


class AttachError(TracerError):
    """A server that can't be reached, refuses, or returns no routing."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Args:
        url: its address, as http://host:port.
        key: an API key, where it wants one.
    """

    url: str
    key: str | None = None

    def get(self, path: str) -> Any:
        return self._call(urllib.request.Request(self.url.rstrip("/") + path))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            self.url.rstrip("/") + path, data, {"Content-Type": "application/json"}
        )
        return self._call(request)

    def kind(self) -> tuple[Kind, str]:
        """What it is, and the model that it serves. Raises AttachError where it is neither."""
        for path in ("/model_info", "/get_model_info"):
            try:
                return "sglang", str(self.get(path)["model_path"])
            except (AttachError, KeyError, TypeError):
                continue
        try:
            return "vllm", str(self.get("/v1/models")["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise AttachError(f"{self.url}: neither vLLM nor SGLang answers there") from None

    def _call(self, request: urllib.request.Request) -> Any:
        if not request.full_url.startswith(("http://", "https://")):
            raise AttachError(f"{self.url}: not an http address")
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            said = " ".join(error.read(2000).decode(errors="replace").split())[:300]
            raise AttachError(f"{self.url}: HTTP {error.code}: {said}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise AttachError(f"{self.url}: {error}") from None


def attach(
    url: str,
    prompts: PromptSet,
    out: str,
    *,
    key: str | None = None,
    max_new_tokens: int = 0,
    at_once: int = 16,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Imported:
    """Send prompts to a server and make a trace of the routing that it returns.

    Args:
        max_new_tokens: tokens to generate and record; greedy.
        at_once: requests under way at once.
        progress: told how many of how many prompts are answered.
        options: of the importer: experts, layers, top_k, num_layers, token_text.
    Raises:
        AttachError: no such server, or one that returns no routing.
        ImportRefused: an answer that is not what it should be; nothing is written.
    """
    for prompt in prompts:
        if prompt.messages or prompt.choices:
            what = "a chat" if prompt.messages else "multiple choice"
            raise AttachError(f"prompt {prompt.id!r} is {what}: attach sends plain texts only")
    server = Server(url, key)
    kind, model = server.kind()
    ask = _ask_vllm if kind == "vllm" else _ask_sglang
    with tempfile.TemporaryDirectory(prefix="moescope-attach-") as folder:
        path = Path(folder) / "answers.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for number, row in enumerate(
                _answers(server, ask, model, prompts, max_new_tokens, at_once), start=1
            ):
                file.write(json.dumps(row) + "\n")
                if progress is not None:
                    progress(number, len(prompts))
        return run(kind, path, out, **options)


def _answers(
    server: Server, ask: Any, model: str, prompts: Sequence[Prompt], max_new_tokens: int, at_once: int
) -> Iterator[dict[str, Any]]:
    with ThreadPoolExecutor(at_once) as pool:
        waiting = [pool.submit(_asked, ask, server, model, prompt, max_new_tokens) for prompt in prompts]
        try:
            for future in waiting:
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()


def _asked(ask: Any, server: Server, model: str, prompt: Prompt, max_new_tokens: int) -> dict[str, Any]:
    try:
        return ask(server, model, prompt, max_new_tokens)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise AttachError(
            f"{server.url}: the answer to prompt {prompt.id!r} is not of the expected form: {what}"
        ) from None


def _ask_vllm(server: Server, model: str, prompt: Prompt, max_new_tokens: int) -> dict[str, Any]:
    answer = server.post("/v1/completions", {
        "model": model, "prompt": prompt.text + (prompt.completion or ""), "max_tokens": max(1, max_new_tokens),
        "temperature": 0, "return_token_ids": True, "cache_salt": uuid.uuid4().hex,
    })  # fmt: skip
    choice = answer["choices"][0]
    if not choice.get("routed_experts"):
        raise _no_routing(server, "vllm")
    row = {name: choice[name] for name in ("prompt_token_ids", "token_ids", "routed_experts")}
    row |= {"request_id": prompt.id, "prompt": prompt.text, **_labels(prompt)}
    row[ROUTED_KEY] = _passed(len(row["prompt_token_ids"]), len(row["token_ids"]), max_new_tokens)
    if max_new_tokens:
        row["generated_text"] = choice["text"]
    else:
        row["token_ids"] = []
    return row


def _ask_sglang(server: Server, model: str, prompt: Prompt, max_new_tokens: int) -> dict[str, Any]:
    answer = server.post("/generate", {
        "text": prompt.text + (prompt.completion or ""), "return_routed_experts": True,
        "sampling_params": {"max_new_tokens": max(1, max_new_tokens), "temperature": 0},
    })  # fmt: skip
    meta = answer.get("meta_info") or {}
    if not meta.get("routed_experts"):
        raise _no_routing(server, "sglang")
    row = {
        "output_ids": answer["output_ids"] if max_new_tokens else [],
        "prompt": prompt.text,
        **_labels(prompt),
    }
    if max_new_tokens:
        row["text"] = answer["text"]
    row[ROUTED_KEY] = _passed(meta["prompt_tokens"], len(answer["output_ids"]), max_new_tokens)
    return {**row, "meta_info": {**meta, "id": prompt.id}}


def _passed(prompt: int, generated: int, max_new_tokens: int) -> int:
    """How many tokens went through the model: all but the last that it made."""
    return prompt + (max(0, generated - 1) if max_new_tokens else 0)


def _labels(prompt: Prompt) -> dict[str, Any]:
    labels = {name: getattr(prompt, name) for name in ("language", "group", "parallel_id")}
    return {**prompt.tags, **{name: value for name, value in labels.items() if value is not None}}


def _no_routing(server: Server, kind: Kind) -> AttachError:
    return AttachError(f"{server.url}: its answers contain no routing: start the server with {SWITCH[kind]}")

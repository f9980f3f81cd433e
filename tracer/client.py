"""Talks to `moescope serve`: the same calls for the app, for notebooks, and for a server elsewhere.

client = connect(url, token)
for event in client.generate("The capital of", steering=profile, compare=True):
    print(event["side"], event["text"])
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .prompts.prompt import Prompt
from .serve.process import ServerCrashed, ServerProcess

__all__ = [
    "Client",
    "Generation",
    "RemoteJob",
    "ServerCrashed",
    "ServerError",
    "ServerProcess",
    "connect",
    "start_server",
]

Event = dict[str, Any]
Prompts = Sequence[Any]


class ServerError(RuntimeError):
    """The server refused or failed; `status` is 0 where it could not be reached at all."""

    def __init__(self, status: int, message: str, field: str | None = None, retry_after: int | None = None):
        super().__init__(message)
        self.status = status
        self.field = field
        self.retry_after = retry_after


def connect(
    url: str, token: str | None = None, *, token_file: str | Path | None = None, name: str | None = None
) -> Client:
    """A client of the server at `url`.

    Args:
        token: the server's token; or `token_file`, as the server printed it.
        name: whose requests these are: requests take turns by name (by address where there is none).
    """
    if token is None and token_file is not None:
        token = Path(token_file).read_text().strip()
    return Client(url, token or "", name=name)


def start_server(model: str, *, timeout: float = 600.0, **options: Any) -> ServerProcess:
    """Start `moescope serve MODEL` as a process and wait until it is ready.

    Args:
        options: options of the command, as device="cpu" or token_file="...".
    Raises:
        ServerCrashed: it ended first; `log_tail` holds what it said.
    """
    return ServerProcess(model, options).wait_ready(timeout)


class Client:
    """One server as seen by one person. Threads may share it: every call has its own connection."""

    def __init__(self, url: str, token: str, *, name: str | None = None, timeout: float = 600.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http address: {url!r}")
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._parts = parts
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        if name:
            self._headers["Moescope-Client"] = name

    def health(self) -> Event:
        """{"status": "ready" | "loading" | "failed", ...}; does not raise where the model is missing."""
        try:
            return self._json("GET", "/health", timeout=5.0)
        except ServerError as error:
            if error.status != 503:
                raise
            return {"status": "loading" if error.retry_after else "failed", "reason": str(error)}

    def model(self) -> Event:
        """The model card, its routers, and the server's limits."""
        return self._json("GET", "/v1/model")

    def tokenize(self, text: str) -> Event:
        return self._json("POST", "/v1/tokenize", {"text": text})

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, str]] | None = None,
        steering: Any = None,
        compare: bool = False,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        candidates: int = 0,
        positions: bool = False,
    ) -> Generation:
        """Tokens as they are made; the last event has `done`. Closing the iterator stops the server's work.

        Args:
            steering: a `Steering`, its JSON as a mapping, or None.
            compare: also generate without it; events then carry `side`, `kl` and `changed`.
            candidates: how many likeliest next tokens to report with each event.
            positions: of a comparison, also the KL, the experts (and the candidates) along the prompt, as
                `prompt_positions` of the last event.
        """
        body: Event = {
            "steering": as_profile(steering), "compare": compare, "candidates": candidates, "stream": True,
            **({"positions": True} if positions else {}),
            "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed,
        }  # fmt: skip
        return Generation(*self._open("POST", "/v1/generate", body | _asked(prompt, messages)))

    def score(self, prompts: Prompts, *, steering: Any = None, compare: bool = False) -> Event:
        """Perplexity of each prompt, or the likelihood of its choices; see docs/serve.md."""
        body = {"prompts": rows_of(prompts), "steering": as_profile(steering), "compare": compare}
        return self._json("POST", "/v1/score", body)

    def rewire(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, str]] | None = None,
        steering: Any = None,
        start: Any = None,
        steps: int = 5,
        learning_rate: float = 0.05,
        layers: str = "all",
    ) -> Event:
        """Learn a logit vector a layer on a text ("Rewiring Experts on the Fly").

        Args:
            steering: acts before the vectors while they are learned.
            start: the `steering` of an earlier answer, to go on from; from zero where left out.
            layers: all, most_confident or least_confident (half of them).
        Returns:
            `steering` with a `vector` rule, `losses` (nats a token, before every step and after the last).
        """
        body: Event = {
            "steering": as_profile(steering), "start": as_profile(start), "steps": steps,
            "learning_rate": learning_rate, "layers": layers,
        }  # fmt: skip
        return self._json("POST", "/v1/rewire", body | _asked(prompt, messages))

    def trace(self, prompts: Prompts, name: str, **options: Any) -> RemoteJob:
        """Record a trace called `name` in the server's library, in the background."""
        return self._start("trace", {"prompts": rows_of(prompts), "name": name, **options})

    def evaluate(self, prompts: Prompts, steering: Any, **options: Any) -> RemoteJob:
        """Evaluate a profile over a prompt set with its controls, in the background."""
        body = {"prompts": rows_of(prompts), "steering": as_profile(steering), **options}
        return self._start("evaluate", body)

    def _start(self, kind: str, body: Event) -> RemoteJob:
        return RemoteJob(self, kind, self._json("POST", f"/v1/{kind}", body)["id"])

    def _json(self, method: str, path: str, body: Any = None, timeout: float | None = None) -> Event:
        connection, response = self._open(method, path, body, timeout)
        try:
            return json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ServerError(0, f"{self.url} broke the connection: {error}") from error
        finally:
            connection.close()

    def _open(
        self, method: str, path: str, body: Any = None, timeout: float | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=timeout or self.timeout)
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, data, self._headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ServerError(0, f"{self.url} does not answer: {error}") from error
        if response.status >= 400:
            with closing(connection):
                raise _refusal(response)
        return connection, response


class Generation(Iterator[Event]):
    """The events of one generation; also a context manager."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self._ended = False

    def __next__(self) -> Event:
        try:
            for line in self._response:
                if line.startswith(b"data: "):
                    return self._event(json.loads(line[6:]))
        except (OSError, ValueError, http.client.HTTPException) as error:
            if self._ended:  # closed by its reader
                raise StopIteration from None
            self.close()
            raise ServerError(0, f"the connection broke: {error}") from error
        whole, self._ended = self._ended, True
        self.close()
        if not whole:
            raise ServerError(0, "the connection closed before the answer was complete")
        raise StopIteration

    def _event(self, event: Event) -> Event:
        if "error" in event:
            self.close()
            raise ServerError(event["error"]["status"], event["error"]["message"])
        self._ended = bool(event.get("done"))
        return event

    def close(self) -> None:
        """Stop generating; may be called more than once."""
        self._ended = True
        self._response.close()
        self._connection.close()

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RemoteJob:
    """A trace or an evaluation on the server."""

    def __init__(self, client: Client, kind: str, job_id: str) -> None:
        self.client = client
        self.path = f"/v1/{kind}/{job_id}"
        self.id = job_id

    def status(self) -> Event:
        """{"state", "progress", "seconds", "result", "error"}."""
        return self.client._json("GET", self.path)

    def cancel(self) -> Event:
        return self.client._json("DELETE", self.path)

    def wait(self, poll_s: float = 0.2) -> Event:
        """The status once the job has ended. Raises `ServerError` where it failed."""
        while (status := self.status())["state"] in ("waiting", "running"):
            time.sleep(poll_s)
        if status["state"] == "failed":
            raise ServerError(500, status["error"])
        return status


def as_profile(steering: Any) -> Any:
    """The JSON of a steering as plain values: a `Steering`, a mapping, JSON text, or None."""
    data = steering.to_json() if hasattr(steering, "to_json") else steering
    return json.loads(data) if isinstance(data, str) else data


def rows_of(prompts: Prompts) -> list[Any]:
    """Prompts as the server reads them: texts, mappings, or the rows of a `PromptSet`."""
    if isinstance(prompts, str):
        raise TypeError("prompts must be a list of prompts, not one string")
    return [_row(prompt) if isinstance(prompt, Prompt) else prompt for prompt in prompts]


def _row(prompt: Prompt) -> Event:
    row: Event = {
        name: getattr(prompt, name) for name in Prompt.__slots__ if name not in ("tags", "messages")
    }
    row |= {"messages": prompt.chat} if prompt.messages else {}
    return {**prompt.tags, **{name: value for name, value in row.items() if value is not None}}


def _asked(prompt: str | None, messages: Sequence[Mapping[str, str]] | None) -> Event:
    body: Event = {} if prompt is None else {"prompt": prompt}
    return body if messages is None else body | {"messages": [dict(turn) for turn in messages]}


def _refusal(response: http.client.HTTPResponse) -> ServerError:
    text = response.read()
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        error = {"message": text.decode(errors="replace")[:300] or response.reason}
    after = response.headers.get("Retry-After")
    return ServerError(
        response.status,
        error["message"],
        error.get("field"),
        int(after) if after and after.isdigit() else None,
    )

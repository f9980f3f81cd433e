"""A client of `moescope serve`: one method for each thing that the server does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..serve.process import ServerProcess
from .connection import Connection, ServerError
from .generation import Generation
from .job import RemoteJob
from .rows import Prompts, as_profile, asked, rows_of

Event = dict[str, Any]


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
        self._connection = Connection(url, token, name, timeout)

    @property
    def url(self) -> str:
        """The server's address, without a slash at its end."""
        return self._connection.url

    def health(self) -> Event:
        """{"status": "ready" | "loading" | "failed", ...}; does not raise where the model is missing."""
        try:
            return self._connection.json("GET", "/health", timeout=5.0)
        except ServerError as error:
            if error.status != 503:
                raise
            return {"status": "loading" if error.retry_after else "failed", "reason": str(error)}

    def model(self) -> Event:
        """The model card, its routers, and the server's limits."""
        return self._connection.json("GET", "/v1/model")

    def tokenize(self, text: str) -> Event:
        return self._connection.json("POST", "/v1/tokenize", {"text": text})

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
        return Generation(*self._connection.open("POST", "/v1/generate", body | asked(prompt, messages)))

    def score(self, prompts: Prompts, *, steering: Any = None, compare: bool = False) -> Event:
        """Perplexity of each prompt, or the likelihood of its choices; see docs/serve.md."""
        body = {"prompts": rows_of(prompts), "steering": as_profile(steering), "compare": compare}
        return self._connection.json("POST", "/v1/score", body)

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
        return self._connection.json("POST", "/v1/rewire", body | asked(prompt, messages))

    def trace(self, prompts: Prompts, name: str, **options: Any) -> RemoteJob:
        """Record a trace called `name` in the server's library, in the background."""
        return self._start("trace", {"prompts": rows_of(prompts), "name": name, **options})

    def evaluate(self, prompts: Prompts, steering: Any, **options: Any) -> RemoteJob:
        """Evaluate a profile over a prompt set with its controls, in the background."""
        body = {"prompts": rows_of(prompts), "steering": as_profile(steering), **options}
        return self._start("evaluate", body)

    def _start(self, kind: str, body: Event) -> RemoteJob:
        return RemoteJob(self._connection, kind, self._connection.json("POST", f"/v1/{kind}", body)["id"])

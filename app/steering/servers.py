"""Model processes of this app: started on request, shared by all who look, watched for their death.

Two people who steer one model share its process; the server keeps their steerings apart.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import streamlit as st

from ...store import Trace, sample_dir
from ...store.library import given_name
from ...tracer.client import Client, ServerCrashed, ServerProcess
from ...tracer.serve.token_file import TokenError, token_for_address

EMERGENT = "adapter emergent"
"""`RouterSpec.found_by` of emergent experts."""
State = Literal["starting", "running", "crashed"]


@dataclass(frozen=True)
class Source:
    """What a process is started with."""

    model: str
    """A folder, or a name on the hub."""
    experts: int | None = None
    """View a dense model as this many emergent experts a layer."""
    used: int | None = None
    """Of those a token uses so many; None: all, as the model itself does."""
    routers: tuple[str, ...] = ()
    """Declared routers, as text."""
    allow_missing: bool = False
    """Load a checkpoint that lacks weights."""
    dtype: str | None = None
    """Precision; None: as the checkpoint is stored."""

    @property
    def options(self) -> dict[str, Any]:
        """Options of `moescope serve`."""
        asked = {"experts": self.experts, "experts_used": self.used if self.experts else None}
        asked |= {"gguf_file": only_gguf(self.model), "router": list(self.routers)}
        asked |= {"allow_missing": self.allow_missing, "dtype": self.dtype}
        return {name: value for name, value in asked.items() if value}


@dataclass
class Live:
    """A `moescope serve` process of this app."""

    source: Source
    process: ServerProcess
    began: float = field(default_factory=time.monotonic)
    reason: str = ""
    """Why it ended, in one line, where it did."""

    @classmethod
    def start(cls, source: Source) -> Live:
        """Start the process; returns at once. Raises OSError."""
        live = cls(source, ServerProcess(source.model, source.options))
        threading.Thread(target=live._wait, name="moescope-serve-wait", daemon=True).start()
        return live

    def _wait(self) -> None:
        try:
            self.process.wait_ready()
        except (ServerCrashed, TimeoutError, OSError, ValueError) as error:
            self.reason = str(error)

    @property
    def state(self) -> State:
        return self.process.state

    @property
    def why(self) -> str:
        """The reason of a crash; how it ended and the last line of its log where it died while it ran."""
        lines = self.process.log_tail.strip().splitlines()
        said = lines[-1] if lines else "it left no message"
        return (
            self.reason
            or f"{self.process.end[:1].upper()}{self.process.end[1:]}. {said[:1].upper()}{said[1:]}."
        )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def client(self, name: str) -> Client:
        return Client(self.process.url, self.process.token, name=name)


@st.cache_resource(show_spinner=False)
def _started() -> dict[Source, Live]:
    return {}


def find(source: Source) -> Live | None:
    """The process that was started with this, also where it has ended."""
    return _started().get(source)


_STARTING = threading.Lock()


def start(source: Source) -> Live:
    """A running process, started anew where there is none or where it has ended. People who ask at the same time get
    the same one."""
    with _STARTING:
        live = find(source)
        if live is None or live.state == "crashed":
            if live is not None:
                live.process.stop()
            live = _started()[source] = Live.start(source)
        return live


def stop(source: Source) -> None:
    """End a process and forget it."""
    live = _started().pop(source, None)
    if live is not None:
        live.process.stop()


def attach(url: str, token: str, name: str) -> Client:
    """A client of a server that someone else started.

    Args:
        token: the token file that the server wrote, or the token itself.

    Raises:
        ServerError: it does not answer, or not to this token.
        ValueError: the address or the token file cannot be used.
    """
    token = token.strip()
    try:
        if os.sep in token or token.startswith("~"):
            token = token_for_address(Path(token).expanduser(), url)
    except (TokenError, ValueError, RuntimeError) as error:
        raise ValueError(str(error)) from None
    client = Client(url.strip(), token, name=name)
    client.model()
    return client


def source_of(trace: Trace) -> Source:
    """The model of a trace, with the emergent experts, declared routers and missing weights it was traced with."""
    emergent = next((router for router in trace.routers if router.found_by == EMERGENT), None)
    if emergent is None:
        declared = tuple(map(str, trace.manifest.settings.get("declared") or ()))
        return Source(
            model_of(trace), routers=declared, allow_missing=bool(trace.manifest.model.get("missing_weights"))
        )
    fewer = emergent.top_k is not None and emergent.top_k < emergent.num_experts
    return Source(model_of(trace), emergent.num_experts, emergent.top_k if fewer else None)


def model_of(trace: Trace) -> str:
    """Where the model of a trace lies here: its folder, the bundled sample's, or the name that was traced; empty where
    it is unknown."""
    name = given_name(trace)
    beside = sample_dir().parent / name
    if name and not Path(name).exists() and beside.is_dir():
        return str(beside)
    return name


def short(model: str) -> str:
    """The end of a path, or a name as it is."""
    return os.sep.join(Path(model).parts[-2:]) if os.sep in model else model


def only_gguf(model: str) -> str | None:
    """The GGUF file of a folder that holds one and no other weights: a trace does not say which file it was of."""
    folder = Path(model)
    if not model or not folder.is_dir() or (folder / "config.json").exists():
        return None
    files = sorted(path.name for path in folder.glob("*.gguf"))
    return files[0] if len(files) == 1 else None


def sample_model() -> str | None:
    """The bundled sample model, where it is there."""
    folder = sample_dir() / "model"
    return str(folder) if folder.is_dir() else None

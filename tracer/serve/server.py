"""Binding, the token, the one line that says where, and the end of it all."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import uvicorn

from . import token_file as tokens
from .binding import ServeError, bind, is_loopback, token_for, url_of
from .engine.engine import Engine
from .http.app import build_app
from .http.connections import with_limits
from .limits import Limits
from .process import PARENT_VARIABLE

log = logging.getLogger("moescope.serve")


def run_server(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token_file: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    gguf_file: str | None = None,
    allow_missing: bool = False,
    attn_implementation: str | None = None,
    routers: Sequence[str] = (),
    experts: int | None = None,
    experts_used: int | None = None,
    engine: dict[str, Any] | None = None,
    limits: Limits | None = None,
    out: TextIO | None = None,
) -> None:
    """Load a model and serve it until interrupted; prints one JSON line when it is ready.

    Args:
        host: an address or name to listen on; other than loopback only with a `token_file`.
        port: 0 for any free one.
        token_file: a file that holds the token; it is made (mode 600) where it does not exist. By default a
            random token in a new file of the user's state folder, removed at the end.
        allow_missing, attn_implementation: as for `load_model`.
        routers: declarations as text, see `routers.declare`.
        experts, experts_used: view a dense model as this many emergent experts a layer, of which a token uses so
            many (all, left as they are, by default).
        engine: run the model in vLLM: keyword arguments of `VllmServed.load`.
        out: where the JSON line goes; stdout by default.
    Raises:
        ServeError: host refused, port taken, token file unusable, or model not loadable.
    """

    def load() -> Any:
        if engine is not None:
            from .vllm_served import VllmServed

            return VllmServed.load(model, dtype=dtype, trust_remote_code=trust_remote_code, **engine)
        from ..prepared import load_prepared
        from .engine.served import Served

        loaded = load_prepared(
            model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, gguf_file=gguf_file,
            allow_missing=allow_missing, attn_implementation=attn_implementation, routers=routers, experts=experts,
            experts_used=experts_used,
        )  # fmt: skip
        return Served.of(loaded.model, loaded.tokenizer, dict(loaded.card))

    sock = bind(host, port, explicit_token=token_file is not None)
    with _terminated_like_interrupted(), sock, token_for(sock, token_file) as (token, path):
        worker = Engine(load, limits)
        server = make_server(worker, token, host)
        line = {"url": url_of(sock, host), "token_file": str(path), "model": model}
        watcher = threading.Thread(target=_watch, args=(server, worker, line, out or sys.stdout), daemon=True)
        watcher.start()
        try:
            server.run(sockets=[sock])
        finally:
            worker.close(timeout=5)
        if worker.state == "failed" and worker.loaded is None:
            raise ServeError(f"cannot serve {model}: {worker.reason}")


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the server as Ctrl-C does, so that the token file goes with it. Uvicorn raises the signal
    that ended it once more, which would otherwise kill the process on the spot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        log.info("ended by a signal")
    finally:
        signal.signal(signal.SIGTERM, before)


def _watch(server: uvicorn.Server, engine: Engine, line: dict[str, str], out: TextIO) -> None:
    """Says when the model is ready; ends the server when it cannot be, or when its parent has gone."""
    parent = int(os.environ.get(PARENT_VARIABLE, "0"))
    announced = False
    while not server.should_exit:
        if not announced and server.started and engine.wait_ready(timeout=0.2):
            print(json.dumps(line), file=out, flush=True)
            announced = True
        if engine.state == "failed" and engine.loaded is None:
            server.should_exit = True
        if parent and os.getppid() != parent:
            log.warning("the program that started this server has ended")
            server.should_exit = True
        time.sleep(0.5 if announced else 0.02)


def make_server(engine: Engine, token: str, host: str) -> uvicorn.Server:
    """A uvicorn server that logs nothing but failures and writes nothing to stdout."""
    hosts = {host} if is_loopback(host) else {host, socket.gethostname(), socket.getfqdn()}
    config = uvicorn.Config(
        build_app(engine, token=token, hosts=tuple(hosts)),
        http=with_limits(engine.limits),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=engine.limits.connections,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=3,
    )
    return uvicorn.Server(config)


@dataclass(frozen=True)
class Address:
    """Where a server in this process answers."""

    url: str
    token: str
    engine: Engine


@contextmanager
def serve_in_background(load: Callable[[], Any], *, limits: Limits | None = None) -> Iterator[Address]:
    """Serve from a thread of this process on a free loopback port, for notebooks and tests.

    Args:
        load: returns a `Served`; it runs in the engine's thread.
    """
    sock = bind("127.0.0.1", 0, explicit_token=False)
    token = tokens.secrets.token_urlsafe(32)
    engine = Engine(load, limits)
    server = make_server(engine, token, "127.0.0.1")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    with sock:
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield Address(url_of(sock, "127.0.0.1"), token, engine)
        finally:
            server.should_exit = True
            engine.close()
            thread.join(10)

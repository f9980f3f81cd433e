"""Where a server listens, and the file in which its token stands."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import token_file as tokens

log = logging.getLogger("moescope.serve")


class ServeError(RuntimeError):
    """The server cannot start; the one-line message says why."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def bind(host: str, port: int, *, explicit_token: bool) -> socket.socket:
    """A bound socket. Raises `ServeError`: open to others without a token of one's own, or not bindable."""
    if not is_loopback(host) and not explicit_token:
        raise ServeError(f"--host {host} lets other machines connect: give your own token with --token-file")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except (OSError, OverflowError) as error:
        raise ServeError(f"cannot listen on {host}, port {port}: {error}") from None
    return sock


def url_of(sock: socket.socket, host: str) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{sock.getsockname()[1]}"


@contextmanager
def token_for(sock: socket.socket, named: str | Path | None) -> Iterator[tuple[str, Path]]:
    """The token and its file; a file that the user did not name is removed at the end."""
    path = Path(named) if named is not None else tokens.default_token_file(sock.getsockname()[1])
    try:
        if named is not None and path.exists():
            token, warnings = tokens.read_token(path)
            for warning in warnings:
                log.warning(warning)
        else:
            token = tokens.write_token(path, url_of(sock, sock.getsockname()[0]))
    except (OSError, tokens.TokenError) as error:
        raise ServeError(str(error)) from None
    try:
        yield token, path.absolute()
    finally:
        if named is None:
            tokens.remove_token(path)

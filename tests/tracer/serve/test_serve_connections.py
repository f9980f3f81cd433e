"""Connections that never ask keep nobody out, and end."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest

from moescope.tracer.serve.limits import Limits
from moescope.tracer.serve.server import Address, serve_in_background

LIMITS = Limits(connections=40, waiting=8, header_s=1.0)


def nothing() -> None:
    raise RuntimeError("no model is needed here")


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve_in_background(nothing, limits=LIMITS) as address:
        yield address


@contextmanager
def half_open(address: Address, number: int, sent: bytes) -> Iterator[list[socket.socket]]:
    parts = urlsplit(address.url)
    with ExitStack() as stack:
        found = []
        for _ in range(number):
            one = stack.enter_context(
                socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10)
            )
            one.sendall(sent)
            found.append(one)
        yield found


def status(address: Address) -> int:
    """Of a path that needs the token, with the token: anything but a refusal."""
    parts = urlsplit(address.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    connection.request("GET", "/openapi.json", headers={"Authorization": f"Bearer {address.token}"})
    response = connection.getresponse()
    json.loads(response.read())
    connection.close()
    return response.status


def is_closed(one: socket.socket, seconds: float) -> bool:
    one.settimeout(seconds)
    try:
        while one.recv(1000):
            continue
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v1/model HTTP/1.1\r\nHost: local"], ids=["nothing", "half a header"]
)
def test_many_half_open_connections_shut_nobody_out(address, sent):
    with half_open(address, 4 * LIMITS.connections, sent) as held:
        assert status(address) == 200
        assert is_closed(held[0], 5)


def test_a_header_that_never_ends_is_cut_off(address):
    began = time.monotonic()
    with half_open(address, 1, b"GET /health HTTP/1.1\r\n") as (one,):
        for _ in range(8):  # a drop now and then does not help
            time.sleep(0.1)
            one.sendall(b"X: y\r\n")
        assert is_closed(one, 10)
    assert time.monotonic() - began < 5 * LIMITS.header_s


def test_a_second_header_on_a_kept_connection_is_cut_off_too(address):
    with half_open(address, 1, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as (one,):
        assert one.recv(1000).startswith(b"HTTP/1.1 503")
        one.sendall(b"GET /health HTTP/1.1\r\n")
        assert is_closed(one, 10)


def test_connections_that_asked_once_and_wait_shut_nobody_out(address):
    with half_open(address, 4 * LIMITS.connections, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        assert status(address) == 200

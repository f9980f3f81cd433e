"""`moescope app`: whom it answers."""

from __future__ import annotations

import itertools

import click
import pytest
from streamlit import config
from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

from moescope.app.cli import app as app_cli
from moescope.tracer.serve.token_file import TokenError, read_token, token_for_address, write_token


def allowed(words: list[str]) -> list[str]:
    return [value for name, value in itertools.pairwise(words) if name == "--server.allowedHosts"]


@pytest.mark.parametrize(
    ("host", "good"),
    [("127.0.0.1:8501", True), ("localhost:8501", True), ("[::1]:8501", True), ("evil.example:8501", False),
     ("127.0.0.1.evil.example", False), ("me@127.0.0.1", False), ("127.0.0.1:1:2", False), (None, False)],
)  # fmt: skip
def test_on_loopback_only_names_of_this_machine_are_answered(host, good):
    before = config.get_option("server.allowedHosts")
    config.set_option("server.allowedHosts", allowed(app_cli.options("127.0.0.1", 8501)))
    try:
        assert is_host_allowed(host) is good
    finally:
        config.set_option("server.allowedHosts", before)


def test_a_public_name_is_answered_beside_them():
    found = allowed(app_cli.options("0.0.0.0", 8501, ["moescope.lab.example"]))
    assert "moescope.lab.example" in found
    assert "*" not in found


def test_a_host_is_an_address():
    with pytest.raises(click.UsageError, match="IP address"):
        app_cli.check_host("evil.example")


def test_a_token_goes_only_to_the_server_that_wrote_it(tmp_path):
    ours, other, long = tmp_path / "serve.token", tmp_path / "password", tmp_path / "long"
    token = write_token(ours, "http://127.0.0.1:8700")
    assert token_for_address(ours, "http://127.0.0.1:8700/") == token
    assert read_token(ours)[0] == token
    for address in ("http://127.0.0.1:8701", "http://evil.example:8700", "https://127.0.0.1:8700"):
        with pytest.raises(TokenError, match="is for http://127"):
            token_for_address(ours, address)
    other.write_text("hunter2\n")
    long.write_text("one two\nthree\n")
    for path in (other, long):
        with pytest.raises(TokenError, match="not a token file"):
            token_for_address(path, "http://evil.example")

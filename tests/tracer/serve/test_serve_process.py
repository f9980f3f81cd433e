"""`moescope serve` as a process: its one line, its token file, what it refuses, and its death."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import character_tokenizer, tiny_olmoe

from moescope.tracer.client import ServerCrashed, ServerError, connect, start_server
from moescope.tracer.serve import token_file
from moescope.tracer.serve.binding import ServeError, bind, is_loopback, token_for, url_of
from moescope.tracer.serve.process import PARENT_VARIABLE
from moescope.tracer.serve.server import run_server

OPTIONS: dict[str, Any] = {"device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny_olmoe().save_pretrained(path)
    character_tokenizer().save_pretrained(path)
    return path


def mode(path):
    return stat.S_IMODE(Path(path).stat().st_mode)


def test_a_server_process_lives_crashes_and_restarts(folder):
    with start_server(str(folder), **OPTIONS) as server:
        client = connect(server.url, server.token)
        assert client.model()["model"]["architecture"] == "OlmoeForCausalLM"
        assert len(list(client.generate("Hello", max_new_tokens=3))) == 4
        first = server.url
        os.kill(server._process.pid, signal.SIGKILL)
        server._process.wait()
        assert server.state == "crashed"
        server.restart()
        assert server.state == "running"
        assert server.url != first
        assert connect(server.url, server.token).health()["status"] == "ready"


def test_a_crash_in_the_middle_of_an_answer_is_told_to_the_client(folder):
    with start_server(str(folder), **OPTIONS) as server:
        client = connect(server.url, server.token)
        events = client.generate("Hello", max_new_tokens=200, temperature=2.0)
        next(events)
        os.kill(server._process.pid, signal.SIGKILL)
        with pytest.raises(ServerError) as broken:
            list(events)
        assert broken.value.status == 0
        server._process.wait()
        assert server.state == "crashed"
        with pytest.raises(ServerError, match="does not answer") as gone:
            client.model()
        assert gone.value.status == 0


def test_the_line_and_the_token_file(folder, tmp_path):
    command = [sys.executable, "-m", "moescope.app", "serve", str(folder), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        known = json.loads(process.stdout.readline())
        assert set(known) == {"url", "token_file", "model"}
        path = Path(known["token_file"])
        assert mode(path) == 0o600
        assert connect(known["url"], token_file=path).health()["status"] == "ready"
        process.terminate()
        rest, _ = process.communicate(timeout=20)
    assert rest == ""
    assert not path.exists()


def test_a_server_ends_with_the_program_that_started_it(folder, tmp_path):
    script = (
        "import os, subprocess, sys;"
        f"env = {{**os.environ, {PARENT_VARIABLE!r}: str(os.getpid())}};"
        f"p = subprocess.Popen([sys.executable, '-m', 'moescope.app', 'serve', {str(folder)!r}, '--device', 'cpu'],"
        " stdout=subprocess.PIPE, text=True, env=env);"
        "p.stdout.readline(); print(p.pid, flush=True); os._exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    pid, deadline = int(done.stdout), time.monotonic() + 20
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(pid)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_model_that_is_none_is_one_line_and_code_1(tmp_path):
    with pytest.raises(
        ServerCrashed, match=r"code 1: moescope: cannot serve .*there is no such folder"
    ) as crash:
        start_server(str(tmp_path / "nothing"), **OPTIONS)
    assert "no such folder" in crash.value.log_tail


def test_a_dense_model_is_refused(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    character_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ServeError, match="cannot serve"):
        run_server(str(tmp_path), device="cpu", out=io.StringIO())


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.com", "::"])
def test_other_machines_are_let_in_only_with_a_token_of_ones_own(host):
    assert not is_loopback(host)
    with pytest.raises(ServeError, match="--token-file"):
        bind(host, 0, explicit_token=False)


def test_loopback_is_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST")))


def test_a_port_that_is_taken_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"cannot listen on 127.0.0.1, port {port}"):
            bind("127.0.0.1", port, explicit_token=False).listen()


def test_a_named_token_file_is_made_or_read_and_stays(tmp_path, caplog):
    path = tmp_path / "token"
    with bind("127.0.0.1", 0, explicit_token=True) as sock:
        assert url_of(sock, "127.0.0.1").startswith("http://127.0.0.1:")
        with token_for(sock, path) as (token, named):
            assert (named, len(token) > 30, mode(path)) == (path, True, 0o600)
        with token_for(sock, path) as (again, _):
            assert again == token
        path.write_text("short\n")
        path.chmod(0o644)
        with token_for(sock, path) as (own, _):
            assert own == "short"
        assert "others can read the token" in caplog.text
        assert "easy to guess" in caplog.text
        path.write_text("two words")
        with pytest.raises(ServeError, match="must contain one word"), token_for(sock, path):
            pass


def test_a_link_in_the_place_of_the_token_file_is_not_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)
    token_file.write_token(link)
    assert target.read_text() == "precious"
    assert mode(link) == 0o600

"""Who may ask, what may be asked, and what bad requests get: one test for each attack and each limit."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import character_tokenizer, tiny_olmoe

from moescope.tracer.client import connect
from moescope.tracer.serve.engine.served import Served
from moescope.tracer.serve.limits import Limits
from moescope.tracer.serve.server import serve_in_background

LIMITS = Limits(body_bytes=20_000, new_tokens=50, score_prompts=4, active=2, queued=2, body_s=1.0, rules=30)
PATHS = [
    ("GET", "/v1/model"),
    ("POST", "/v1/tokenize"),
    ("POST", "/v1/generate"),
    ("POST", "/v1/score"),
    ("POST", "/v1/rewire"),
    ("POST", "/v1/trace"),
    ("GET", "/v1/trace/x"),
    ("DELETE", "/v1/trace/x"),
    ("POST", "/v1/evaluate"),
    ("GET", "/openapi.json"),
]


@pytest.fixture(scope="module")
def address():
    def load():
        return Served.of(tiny_olmoe(), character_tokenizer(), {"name": "tiny"})

    with serve_in_background(load, limits=LIMITS) as address:
        assert address.engine.wait_ready(60)
        yield address


def ask(address, method, path, body: Any = None, *, token=None, timeout=20, **headers):
    """(status, answer, headers) of one request, by the plainest client there is."""
    parts = urlsplit(address.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    known = {"Authorization": f"Bearer {token or address.token}"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    connection.request(method, path, data, {name: value for name, value in known.items() if value})
    response = connection.getresponse()
    text = response.read()
    connection.close()
    answer: Any = text
    if response.headers.get("content-type") == "application/json":
        answer = json.loads(text)
    return response.status, answer, response.headers


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic abc", "Bearer ", "bearer"])
def test_nothing_but_health_is_answered_without_the_token(address, method, path, header):
    parts = urlsplit(address.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    connection.request(method, path, b"{}", {} if header is None else {"Authorization": header})
    response = connection.getresponse()
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "token" in json.loads(response.read())["error"]["message"]


def test_health_needs_no_token(address):
    status, answer, _ = ask(address, "GET", "/health", token="wrong")
    assert (status, answer["status"]) == (200, "ready")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "",
        "[::1",
        "a b",
        "me@127.0.0.1",
        "127.0.0.1:1:2",
        "evil.example@localhost",
        "localhost#evil.example",
        "[::1]x",
        "127.0.0.1:x",
    ],
)
def test_a_rebound_name_is_refused_even_with_the_token(address, host):
    for path in ("/v1/model", "/health"):
        status, _, _ = ask(address, "GET", path, Host=host or " ")
        assert status in (400, 421)


@pytest.mark.parametrize(
    "rules", [[{}] * 31, [{"rule": "off", "experts": {str(layer): [0] for layer in range(31)}}]]
)
def test_profiles_have_a_limited_number_of_rules(address, rules):
    status, answer, _ = ask(address, "POST", "/v1/score", {"prompts": ["ab"], "steering": {"rules": rules}})
    assert status == 422
    assert "31 rules, more than 30" in answer["error"]["message"]


@pytest.mark.parametrize("name", ["a\n", "a\nb", "../a", ".a", "", "a" * 101, "a/b", "ä"])
def test_a_trace_has_a_plain_name(address, name):
    status, answer, _ = ask(address, "POST", "/v1/trace", {"prompts": ["ab"], "name": name})
    assert (status, answer["error"]["field"]) == (400, "name")


def test_a_link_in_the_library_is_not_followed(address, tmp_path, monkeypatch):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(tmp_path / "library"))
    (tmp_path / "library").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "library" / "t").symlink_to(tmp_path / "elsewhere")
    status, answer, _ = ask(address, "POST", "/v1/trace", {"prompts": ["ab"], "name": "t", "resume": True})
    assert (status, answer["error"]["field"]) == (409, "name")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("start", [1e308, 10**400, float("inf")])
def test_vectors_to_go_on_from_are_finite_and_stay_so(address, start):
    profile = {"rules": [{"rule": "vector", "layers": [0], "vector": [start] * 8}]}
    status, answer, _ = ask(address, "POST", "/v1/rewire", {"prompt": "ab", "start": profile})
    assert status in (400, 422)
    assert len(answer["error"]["message"]) < 2100


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:80", "LOCALHOST", "10.0.0.7:8000"])
def test_addresses_and_localhost_cannot_be_rebound(address, host):
    assert ask(address, "GET", "/v1/model", Host=host)[0] == 200


def test_other_pages_get_no_answer_and_no_cors_header(address):
    status, _, headers = ask(address, "GET", "/v1/model", Origin="http://evil.example")
    assert status == 403
    status, _, headers = ask(address, "OPTIONS", "/v1/model", Origin=address.url)
    assert status == 405
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_the_model_and_its_routers(address):
    _, answer, headers = ask(address, "GET", "/v1/model")
    assert answer["model"] == {"name": "tiny"}
    assert [(r["layer"], r["num_experts"], r["top_k"]) for r in answer["routers"]] == [
        (i, 8, 2) for i in range(3)
    ]
    assert (answer["context"], answer["dtype"], answer["chat_template"]) == (256, "float32", False)
    assert headers["Cache-Control"] == "no-store"


def test_tokenize_by_any_of_its_names(address):
    ids = character_tokenizer()("Hi!")["input_ids"]
    for field in ("text", "prompt"):
        _, answer, _ = ask(address, "POST", "/v1/tokenize", {field: "Hi!"})
        assert answer == {"ids": ids, "tokens": ["<s>", "H", "i", "!"], "count": 4}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/generate", {}, "prompt"),
        ("/v1/generate", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "messages"),
        ("/v1/generate", {"prompt": 7}, "prompt"),
        ("/v1/generate", {"prompt": ""}, "prompt"),
        ("/v1/generate", {"prompt": "a", "max_new_tokens": 0}, "max_new_tokens"),
        ("/v1/generate", {"prompt": "a", "max_new_tokens": 51}, "max_new_tokens"),
        ("/v1/generate", {"prompt": "a", "max_new_tokens": True}, "max_new_tokens"),
        ("/v1/generate", {"prompt": "a", "temperature": -0.5}, "temperature"),
        ("/v1/generate", {"prompt": "a", "top_p": 0}, "top_p"),
        ("/v1/generate", {"prompt": "a", "top_p": "1"}, "top_p"),
        ("/v1/generate", {"prompt": "a", "seed": -1}, "seed"),
        ("/v1/generate", {"prompt": "a", "compare": "yes"}, "compare"),
        ("/v1/generate", {"prompt": "a", "max_tokens": 3}, "max_tokens"),
        ("/v1/generate", {"prompt": "a", "steering": [1]}, "steering"),
        ("/v1/generate", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("/v1/generate", {"messages": []}, "messages"),
        ("/v1/generate", {"messages": [{"role": "user", "content": "a"}]}, "messages"),
        ("/v1/rewire", {}, "prompt"),
        ("/v1/rewire", {"prompt": "abc", "steps": 101}, "steps"),
        ("/v1/rewire", {"prompt": "abc", "layers": "some"}, "layers"),
        ("/v1/score", {}, "prompts"),
        ("/v1/score", {"prompts": []}, "prompts"),
        ("/v1/score", {"prompts": ["a"] * 5}, "prompts"),
        ("/v1/score", {"prompts": ["a", 1]}, "prompts[1]"),
        ("/v1/score", {"prompts": ["a", {"id": "x"}]}, "prompts[1].text"),
        ("/v1/score", {"prompts": [{"text": "a", "choices": ["b"]}]}, "prompts[0].choices"),
        ("/v1/score", {"prompts": [{"text": "a", "choices": ["b", "c"], "answer": 2}]}, "prompts"),
        ("/v1/tokenize", {"text": "a", "prompt": "b"}, "prompt"),
        ("/v1/trace", {"prompts": ["a"], "name": "../x"}, "name"),
        ("/v1/trace", {"prompts": ["a"], "name": "x", "capture": ["all"]}, "capture[0]"),
        ("/v1/evaluate", {"prompts": ["a"]}, "steering"),
        ("/v1/evaluate", {"prompts": ["a"], "variants": {"x": {"rules": []}}, "by": "language"}, "by"),
    ],
)
def test_a_wrong_field_is_400_and_named(address, path, body, field):
    status, answer, _ = ask(address, "POST", path, body)
    assert (status, answer["error"].get("field")) == (400, field)
    assert answer["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"prompt": "a", "top_p": NaN}', b'{"prompt": "\\ud800"}',
        b"[" * 15000, b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", b'{"prompt": "a", "temperature": 1e999}',
    ],
    ids=["empty", "cut", "list", "null", "bytes", "nan", "surrogate", "deep", "huge", "infinity"],
)  # fmt: skip
def test_a_body_that_is_no_request_is_400(address, body):
    status, answer, _ = ask(address, "POST", "/v1/generate", body)
    assert status == 400
    assert len(answer["error"]["message"]) < 400


def test_a_long_body_is_413_whether_announced_or_not(address):
    body = json.dumps({"prompt": "x" * 30_000}).encode()
    assert ask(address, "POST", "/v1/generate", body)[0] == 413
    parts = urlsplit(address.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    pieces = (b"x" * 1000 for _ in range(100))
    connection.request(
        "POST", "/v1/generate", pieces, {"Authorization": f"Bearer {address.token}"}, encode_chunked=True
    )
    assert connection.getresponse().status == 413


def test_a_body_that_does_not_come_is_408(address):
    parts = urlsplit(address.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    connection.putrequest("POST", "/v1/generate")
    connection.putheader("Authorization", f"Bearer {address.token}")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    assert connection.getresponse().status == 408


def test_unknown_paths_and_methods(address):
    assert ask(address, "GET", "/v1/nothing")[0] == 404
    assert ask(address, "GET", "/v1/trace/nothing")[0] == 404
    status, answer, headers = ask(address, "GET", "/v1/generate")
    assert (status, headers["Allow"]) == (405, "POST")
    assert answer["error"]["status"] == 405


def test_more_connections_than_allowed_are_503():
    limits = Limits(connections=2)
    with serve_in_background(lambda: Served.of(tiny_olmoe(), character_tokenizer()), limits=limits) as small:
        assert small.engine.wait_ready(60)
        parts = urlsplit(small.url)
        held = [socket.create_connection((parts.hostname or "", parts.port or 0)) for _ in range(3)]
        time.sleep(0.2)
        assert ask(small, "GET", "/health")[0] == 503
        for one in held:
            one.close()
        deadline = time.monotonic() + 5
        while ask(small, "GET", "/health")[0] != 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert ask(small, "GET", "/health")[0] == 200


def test_the_page_on_serving_names_every_path_and_every_limit(address):
    page = (Path(__file__).parent.parent.parent.parent / "docs" / "serve.md").read_text(encoding="utf-8")
    _, described, _ = ask(address, "GET", "/openapi.json")
    for path, operations in described["paths"].items():
        for method in operations:
            if method in ("get", "post", "delete") and path != "/openapi.json":
                assert f"`{method.upper()} {path}`" in page, f"{method} {path}"
    for limit in fields(Limits):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{limit.name}`"))
        assert f"{limit.default:,.0f}" in row


def test_a_full_queue_is_429_with_retry_after(address):
    client = connect(address.url, address.token)
    gate, steps = threading.Event(), []

    def hold(loaded):
        gate.wait(10)
        yield None

    for _ in range(4):
        steps.append(address.engine.submit(hold, lambda message: None, client="other"))
    status, answer, headers = ask(address, "POST", "/v1/generate", {"prompt": "a"})
    gate.set()
    assert (status, headers["Retry-After"]) == (429, "5")
    assert "running or waiting" in answer["error"]["message"]
    # Those that were held leave the queue one by one.
    for _ in range(200):
        status, _, _ = ask(
            address, "POST", "/v1/generate", {"prompt": "a", "max_new_tokens": 1, "stream": False}
        )
        if status != 429:
            break
        time.sleep(0.05)
    assert list(client.generate("a", max_new_tokens=1))


def test_no_model_yet_is_503_and_says_so():
    gate = threading.Event()
    with serve_in_background(lambda: gate.wait(10)) as address:
        status, answer, headers = ask(address, "GET", "/health")
        assert (status, answer["status"]) == (503, "loading")
        status, answer, headers = ask(address, "POST", "/v1/generate", {"prompt": "a"})
        assert (status, headers["Retry-After"]) == (503, "2")
        gate.set()


def test_a_model_that_failed_is_503_with_the_reason():
    def load():
        raise OSError("no such folder")

    with serve_in_background(load) as address:
        address.engine.wait_ready(10)
        assert ask(address, "GET", "/health")[1]["status"] == "failed"
        status, answer, _ = ask(address, "GET", "/v1/model")
        assert status == 503
        assert "no such folder" in answer["error"]["message"]
        assert connect(address.url, address.token).health()["status"] == "failed"


def test_the_description_names_every_path_and_resolves(address):
    _, described, _ = ask(address, "GET", "/openapi.json")
    assert described["openapi"].startswith("3.1")
    for method, path in PATHS:
        assert method.lower() in described["paths"][path.replace("/x", "/{job_id}")]
    names = described["components"]["schemas"]
    for reference in json.dumps(described).split('"$ref": "')[1:]:
        assert reference.split('"')[0].removeprefix("#/components/schemas/") in names


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats(-2, 2)
    | st.text(max_size=8)
    | st.sampled_from([10**400, 2**63, 1e308, float("nan"), "²", "a\n", "\x1b[2J", "y" * 3000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["prompt", "messages", "steering", "compare", "max_new_tokens", "temperature", "top_p", "seed",
          "stream", "candidates", "prompts", "positions", "text", "name", "variants"]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["/v1/generate", "/v1/score", "/v1/rewire", "/v1/tokenize", "/v1/evaluate"]),
    body=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
)
def test_whatever_is_asked_the_answer_is_a_clear_one(address, path, body):
    short = {"max_new_tokens": 2} if path == "/v1/generate" else {}
    status, answer, _ = ask(address, "POST", path, {**short, **body})
    assert status in (200, 202, 400, 413, 422, 429)
    if status >= 400:
        assert answer["error"]["message"]

"""A local S3-compatible server: write, read, resume, damage. Runs where moto is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from moescope.store import TraceWriter, open_trace
from moescope.store.files.folder import open_folder
from moescope.store.write.synthetic import Synthetic, synthetic_parts, write_synthetic

moto_server = pytest.importorskip(
    "moto.server", reason="no local S3: pip install '.[test-s3]'", exc_type=ImportError
)

PLAN = Synthetic(prompts=10, tokens_per_prompt=8, layers=2, experts=6, top_k=2, part_tokens=30)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    names = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    options = f"scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1&allow_bucket_creation=true"
    yield f"s3://bucket/traces/NAME?{options}"
    server.stop()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def test_written_read_resumed_and_asked(bucket: str, tmp_path) -> None:
    url = bucket.replace("NAME", "a")
    write_synthetic(tmp_path / "local", PLAN)
    local = open_trace(tmp_path / "local")
    with TraceWriter(
        url,
        routers=PLAN.routers(),
        model={"name": "synthetic", "class": "none: drawn at random"},
        prompt_set={"fingerprint": f"synthetic-{PLAN.seed}-{PLAN.prompts}"},
        settings={"plan": repr(PLAN)},
    ) as out:
        out.write(next(synthetic_parts(PLAN)))
    half = open_trace(url)
    assert half.state == "partial"
    assert 0 < half.num_prompts < PLAN.prompts
    write_synthetic(url, PLAN, resume=True)
    trace = open_trace(url)
    assert trace.state == "complete"
    assert trace.verify() == []
    assert trace.events().equals(local.events())
    assert trace.view("load", by="language").equals(local.view("load", by="language"))
    assert trace.sql("SELECT count(*) AS n FROM events").to_pylist() == [{"n": local.num_events}]


def test_a_missing_object_is_named(bucket: str) -> None:
    url = bucket.replace("NAME", "b")
    write_synthetic(url, PLAN)
    lost = f"tokens/{open_trace(url).parts[1].name}.parquet"
    open_folder(url).remove(lost)
    assert [problem.file for problem in open_trace(url).problems] == [lost]

"""The rows of one prompt are those that a filter over everything finds."""

import os

import pytest

from moescope.store import open_trace
from moescope.store.arrow import pc
from moescope.store.files.threads import readers
from moescope.store.write import parts
from moescope.store.write.synthetic import Synthetic, write_synthetic

PLAN = Synthetic(prompts=40, layers=5, part_tokens=500, varying_k=True)


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts") / "trace"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "TOKENS_PER_GROUP", 50)
        patch.setattr(parts.prompt_chunks, "__defaults__", (100,))
        write_synthetic(str(folder), PLAN)
    return open_trace(folder)


@pytest.mark.parametrize("number", [0, 7, 22, 39])
def test_events_and_tokens_of_a_prompt(trace, number):
    prompt_id = f"p{number:06d}"
    whole = trace.events(where={"language": ["en", "de", "fr", "es"]})
    expected = whole.filter(pc.equal(whole["prompt_id"], prompt_id))
    assert trace.events(prompt_id).to_pylist() == expected.to_pylist()
    assert trace.events(prompt_id, layer=[1, 3]).to_pylist() == [
        row for row in expected.to_pylist() if row["layer"] in (1, 3)
    ]
    few = trace.events(prompt_id, layer=2, columns=["position", "experts"])
    assert few.to_pylist() == [
        {"position": row["position"], "experts": row["experts"]}
        for row in expected.to_pylist()
        if row["layer"] == 2
    ]
    tokens = trace.tokens()
    expected = tokens.filter(pc.equal(tokens["prompt_id"], prompt_id))
    assert trace.tokens(prompt_id).to_pylist() == expected.to_pylist()
    assert len(expected) == len(few)


def test_a_forked_process_has_readers_of_its_own(trace):
    assert readers().submit(lambda: 1).result() == 1
    child = os.fork()
    if child == 0:
        os._exit(0 if readers().submit(lambda: 7).result(timeout=20) == 7 else 1)
    assert os.waitpid(child, 0)[1] == 0

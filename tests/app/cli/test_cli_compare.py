"""`moescope compare` as a user or somebody's CI meets it."""

import json

import numpy as np
import pytest

from moescope.app.cli.commands import run
from moescope.store import TraceWriter
from moescope.store.write.synthetic import Synthetic, synthetic_parts

PLAN = Synthetic(prompts=16, tokens_per_prompt=10, languages=2, layers=2, experts=8, top_k=2)


def written(path, plan=PLAN, flips=0.0, dtype="float32"):
    with TraceWriter(
        path, routers=plan.routers(), model={"name": "synthetic", "dtype": dtype}, prompt_set={}, settings={}
    ) as out:
        for part in synthetic_parts(plan):
            for events in part.events:
                chosen = np.random.default_rng(events.layer).random(len(events.experts)) < flips
                experts = events.experts.copy()
                experts[chosen, 1] = 7 - experts[chosen, 0]
                events.experts = np.where(experts[:, [0]] == experts[:, [1]], events.experts, experts)
            if flips:
                part.sums.clear()
            out.write(part)
        out.finish()
    return str(path)


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    return written(folder / "a"), written(folder / "b", flips=0.3, dtype="bfloat16")


def call(capsys, *words):
    code = run([*map(str, words), "--resamples", "50"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_it_says_in_words_what_changed_and_what_differs(traces, capsys):
    code, out, err = call(capsys, "compare", *traces)
    assert code == 0, err
    assert out.startswith("A and B chose other experts in ")
    assert "model.dtype" in out
    assert "bfloat16" in out
    assert "--noise" in out


def test_few_prompts_have_no_interval_and_the_sentence_says_so(tmp_path, capsys):
    plan = Synthetic(prompts=2, tokens_per_prompt=10, languages=2, layers=2, experts=8, top_k=2)
    few = written(tmp_path / "a", plan), written(tmp_path / "b", plan, flips=0.3)
    _, out, _ = call(capsys, "compare", *few)
    assert "2 prompts: too few for intervals." in out
    assert "In brackets" not in out
    _, out, _ = call(capsys, "compare", *few, "--json")
    assert all(row["flip_rate_low"] is None for row in json.loads(out))


def test_a_trace_compared_with_itself(traces, capsys):
    code, out, err = call(capsys, "compare", traces[0], traces[0], "--fail-above", 0)
    assert code == 0
    assert "in 0\u202f% " in out
    assert "A and B are the same trace." in err


def test_tables_for_machines_hold_every_interval(traces, capsys):
    code, out, _ = call(capsys, "compare", *traces, "--by", "language", "--json")
    rows = json.loads(out)
    assert code == 0
    assert {row["language"] for row in rows} == {"en", "de"}
    assert all(row["flip_rate_low"] <= row["flip_rate"] <= row["flip_rate_high"] for row in rows)
    code, out, _ = call(capsys, "compare", *traces, "--view", "prompts", "--format", "csv", "--layers", "1")
    assert code == 0
    assert out.splitlines()[0].startswith('"prompt_id","language","tokens"')


def test_it_can_stand_in_a_ci(traces, capsys):
    code, _, err = call(capsys, "compare", *traces, "--fail-above", 0.01)
    assert code == 3
    assert "of the routing decisions flipped, more than 1.0000%" in err
    assert call(capsys, "compare", *traces, "--fail-above", 0.9)[0] == 0


def test_what_cannot_be_compared_is_one_sentence(traces, tmp_path, capsys):
    other = written(tmp_path / "c", Synthetic(prompts=4, experts=12, layers=2, top_k=2))
    code, out, err = call(capsys, "compare", traces[0], other)
    assert (code, out) == (2, "")
    assert "layer 0 (decoder) has 8 experts in A and 12 in B" in err
    assert err.count("\n") == 1
    assert call(capsys, "compare", traces[0], tmp_path / "none")[0] == 1
    assert call(capsys, "compare", *traces, "--view", "prompts", "--by", "language")[0] == 2


def test_a_rate_that_is_no_number_fails_no_ci_in_silence(traces, capsys):
    code, _, err = call(capsys, "compare", *traces, "--fail-above", "nan")
    assert code == 2
    assert "not a rate" in err

"""The view expert-half-life against uses counted one by one."""

from __future__ import annotations

import pytest

from moescope.app.figures.half_life import half_life_by_layer
from moescope.app.sentences import half_life as sentences
from moescope.store import Trace


@pytest.mark.parametrize("special", [True, False])
def test_kept_is_counted_from_the_events(shared_trace: Trace, special: bool) -> None:
    table = shared_trace.view("expert-half-life", special=special, resamples=20)
    assert table.num_rows == len(shared_trace.routers)
    kinds = {(row["prompt_id"], row["position"]): row["special"] for row in shared_trace.tokens().to_pylist()}
    assert set(kinds.values()) == {True, False}
    for row in table.to_pylist():
        chosen = {
            (event["prompt_id"], event["position"]): set(event["experts"])
            for event in shared_trace.events(layer=row["layer"], stream=row["stream"]).to_pylist()
            if special or not kinds[event["prompt_id"], event["position"]]
        }
        pairs = [(experts, chosen[p, at + 1]) for (p, at), experts in chosen.items() if (p, at + 1) in chosen]
        assert row["kept"] == pytest.approx(sum(len(a & b) for a, b in pairs) / sum(len(a) for a, _ in pairs))
        assert row["uses"] == sum(map(len, chosen.values()))


def test_the_chart_and_the_sentence_stand(shared_trace: Trace) -> None:
    table = shared_trace.view("expert-half-life", resamples=20)
    assert half_life_by_layer(table).to_dict()["layer"]
    best = max(table.to_pylist(), key=lambda row: row["kept"])
    assert f"Layer {best['layer']} keeps experts longest" in sentences.half_life(table)

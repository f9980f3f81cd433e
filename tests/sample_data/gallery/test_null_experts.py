"""AdaMoE and EvoMoE: fewer true experts as nulls rise or the gate closes; without nulls nothing changes."""

from itertools import pairwise

import numpy as np

from moescope.sample_data.gallery.null_experts import NULL_LOGITS, NULLS, PLACES, TEMPERATURES, THRESHOLD


def used(trace, tag, value, stream):
    rows = trace.view("load", by=tag, stream=stream).to_pylist()
    mine = [row for row in rows if row[tag] == f"{value:g}"]
    return sum(row["count"] for row in mine) / (sum(row["tokens"] for row in mine) / 32)


def test_true_experts_fall_as_the_null_logit_rises(made):
    trace = made("null_experts")
    found = [used(trace, "null_logit", value, "null") for value in NULL_LOGITS]
    assert found[0] == PLACES
    assert found[-1] >= PLACES - NULLS
    assert all(a > b for a, b in pairwise(found))
    told = trace.manifest.settings["measured"]["true_experts_by_null_logit"]
    np.testing.assert_allclose(list(told.values()), found, atol=1e-3)


def test_the_closing_gate_is_dense_at_first_and_keeps_only_weights_above_its_threshold(made):
    trace = made("null_experts")
    found = [used(trace, "temperature", value, "closing") for value in TEMPERATURES]
    assert all(a > b for a, b in pairwise(found))
    assert found[0] > 3 * found[-1]
    events = trace.events(stream="closing").to_pylist()
    assert max(len(event["experts"]) for event in events) > 25
    for event in events[:500]:
        np.testing.assert_allclose(sum(event["weights"]), 1, atol=2e-3)
        assert min(event["weights"]) > THRESHOLD * 0.99


def test_without_null_experts_no_bit_of_the_output_changes(made):
    assert made("null_experts").manifest.settings["measured"]["neutral_identical"] is True

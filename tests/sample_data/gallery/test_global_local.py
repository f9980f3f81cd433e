"""Two experts and a gate: its ends are the experts themselves, and it tells writers apart."""

import torch

from moescope.sample_data.gallery.global_local import WRITERS, Customised


def test_a_gate_forced_to_an_end_is_that_expert():
    torch.manual_seed(0)
    model, images = Customised(), torch.rand(20, 8, 8)
    with torch.no_grad():
        model.gate.forced = 0.0
        assert torch.equal(model(images), model.everybody(images))
        model.gate.forced = 1.0
        assert torch.equal(model(images), model.local(images))


def test_the_local_expert_weighs_more_for_its_own_writer(made):
    trace = made("global_local")
    rows = trace.view("timeline", by="writer").to_pylist()
    weight = {row["x"]: row["weight"] for row in rows if row["expert"] == 1}
    assert list(weight) == list(WRITERS)
    assert weight[WRITERS[-1]] > max(weight[writer] for writer in WRITERS[:-1])
    histogram = trace.manifest.settings["measured"]["gate_histogram"]
    rows = trace.view("gate-weights", layer=0, expert=1, by="writer").to_pylist()
    for writer in WRITERS:
        assert [row["count"] for row in rows if row["writer"] == writer] == histogram[writer]
    assert {writer: sum(counts) for writer, counts in histogram.items()} == dict.fromkeys(WRITERS, 30)

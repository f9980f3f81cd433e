"""Measures, differences and sentences of the heatmap, by hand."""

import numpy as np
import pyarrow as pa
import pytest

from moescope.app.sentences import load as sentences
from moescope.store.views.experts.load_difference import difference, moved, with_measure


def load(shares: list[list[float]], tokens: int = 100, top_k: int = 1) -> pa.Table:
    """A `load` view of one stream from shares by layer and expert."""
    rows = [
        {
            "layer": layer, "stream": "decoder", "expert": expert, "tokens": tokens,
            "count": round(share * tokens), "share": share, "weight_sum": share * tokens * 0.5,
            "mean_probability": share / top_k,
        }
        for layer, row in enumerate(shares)
        for expert, share in enumerate(row)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def test_measures_are_per_token():
    table = load([[0.75, 0.25, 0.0]])
    assert with_measure(table, "share")["value"].to_pylist() == [0.75, 0.25, 0.0]
    assert with_measure(table, "weight")["value"].to_pylist() == pytest.approx([0.375, 0.125, 0.0])
    assert with_measure(table, "probability")["value"].to_pylist() == [0.75, 0.25, 0.0]


def test_chance_is_k_over_experts_in_each_layer():
    table = with_measure(load([[1.0, 0.75, 0.25, 0.0], [0.5, 0.5, 0.5, 0.5]], top_k=2), "share")
    assert table["chance"].to_pylist() == pytest.approx([0.5] * 8)


def test_chance_is_that_of_each_language_and_unknown_without_tokens():
    tables = [load([[1.0, 0.5]]), load([[0.5, 0.5]]), load([[0.0, 0.0]], tokens=0)]
    split = [t.append_column("language", pa.array([n] * 2)) for n, t in zip("abc", tables, strict=True)]
    chance = with_measure(pa.concat_tables(split), "share")["chance"].to_pylist()
    assert chance == [0.75, 0.75, 0.5, 0.5, None, None]


def test_gate_weight_of_an_unused_expert_is_unknown_not_zero():
    assert with_measure(load([[1.0, 0.0]]), "share")["mean_weight"].to_pylist() == [0.5, None]


def test_what_a_trace_lacks_stays_unknown():
    table = load([[1.0, 0.0]])
    table = table.set_column(7, "mean_probability", pa.nulls(2, pa.float64()))
    shown = with_measure(table, "probability")
    assert shown["value"].null_count == 2
    assert "does not record" in sentences.load(shown, "probability", "all")


def test_a_difference_joins_by_cell_not_by_row():
    a, b = (with_measure(load(shares), "share") for shares in ([[0.7, 0.3]], [[0.4, 0.6]]))
    table = difference(a, b.take(pa.array([1, 0])))
    assert dict(zip(table["expert"].to_pylist(), table["value"].to_pylist(), strict=True)) == pytest.approx(
        {0: 0.3, 1: -0.3}
    )


def test_a_difference_keeps_only_cells_of_both():
    a, b = (with_measure(load(shares), "share") for shares in ([[0.7, 0.3], [0.5, 0.5]], [[0.4, 0.6]]))
    assert difference(a, b)["layer"].to_pylist() == [0, 0]


def test_there_is_no_difference_from_a_side_without_tokens():
    a, b = with_measure(load([[0.7, 0.3]]), "share"), with_measure(load([[0.0, 0.0]], tokens=0), "share")
    table = difference(a, b)
    assert table["value"].to_pylist() == table["b"].to_pylist() == [None, None]
    assert "No cell has a share of tokens on both sides" in sentences.load_difference(
        table, "share", "A", "B"
    )


def test_moved_is_the_share_of_routing_that_differs():
    a, b = (
        with_measure(load(shares), "share") for shares in ([[1.0, 0.0], [0.6, 0.4]], [[0.0, 1.0], [0.5, 0.5]])
    )
    assert moved(difference(a, b))["value"].to_pylist() == pytest.approx([1.0, 0.1])


def test_the_sentence_names_the_largest_cell_and_chance():
    table = with_measure(load([[0.25, 0.25, 0.25, 0.25], [0.31, 0.69, 0.0, 0.0]]), "share")
    said = sentences.load(table, "share", "Japanese")
    assert "Layer 1 sends 69\u202f% of Japanese tokens to expert 1" in said
    assert "even routing would give 25\u202f%" in said
    assert "2 experts of 8 are never used." in said


def test_the_difference_sentence_has_both_directions():
    a, b = (with_measure(load(shares), "share") for shares in ([[0.7, 0.3]], [[0.4, 0.6]]))
    said = sentences.load_difference(difference(a, b), "share", "Japanese", "English")
    assert (
        "Most in favour of Japanese: layer 0, expert 0 (70\u202f% against 40\u202f%, +30\u202fpoints)" in said
    )
    assert (
        "Most in favour of English: layer 0, expert 1 (30\u202f% against 60\u202f%, −30\u202fpoints)" in said
    )


def test_no_tokens_is_said_so():
    table = with_measure(load([[0.0, 0.0]], tokens=0), "share")
    assert "No tokens" in sentences.load(table, "share", "Klingon")


def test_values_are_those_of_the_real_view(hand_library):
    from moescope.store import open_trace

    trace = open_trace(hand_library / "hand")
    table = with_measure(trace.view("load"), "share")
    events = trace.events(layer=2, columns=["experts"])
    counts = np.bincount(np.concatenate(events["experts"].to_pylist()), minlength=8)
    rows = [row for row in table.to_pylist() if row["layer"] == 2]
    assert [row["value"] for row in rows] == pytest.approx((counts / events.num_rows).tolist())

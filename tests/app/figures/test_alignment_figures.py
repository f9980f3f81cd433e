"""Lines of alignment are named at their ends."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.app.figures.alignment import spread
from moescope.app.figures.alignment_families import family_lines


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_names_stand_apart_in_their_order_and_inside(values):
    step = 0.04
    places = spread(sorted(values), step, 0.0, 1.0)
    assert all(b - a >= step - 1e-9 for a, b in itertools.pairwise(places))
    assert places[0] >= -1e-9
    assert places[-1] <= 1 + 1e-9


def test_a_name_that_has_room_stands_at_its_line():
    assert spread([0.2, 0.5, 0.9], 0.05, 0, 1) == [0.2, 0.5, 0.9]
    assert spread([0.5, 0.5], 0.1, 0, 1) == pytest.approx([0.45, 0.55])


def test_small_charts_hold_each_language_once_in_its_family_the_nearest_first():
    rows = [("en", 0.1), ("de", 0.3), ("ja", 0.9), ("fr", 0.5), ("it", None)]
    table = pa.table({
        "language": [code for code, _ in rows for _ in (0, 1)],
        "layer": [0, 1] * len(rows),
        "divergence": [value for _, value in rows for _ in (0, 1)],
        "low": pa.nulls(10, pa.float64()), "high": pa.nulls(10, pa.float64()),
    })  # fmt: skip
    spec = family_lines(table, "divergence", label="d").to_dict()
    charts = spec["concat"]
    assert [chart["title"] for chart in charts] == ["Germanic", "Romance", "Japanese and Korean"]
    own = [spec["datasets"][chart["layer"][2]["data"]["name"]] for chart in charts]
    assert [{row["language"] for row in rows} for rows in own] == [{"en", "de"}, {"fr", "it"}, {"ja"}]
    domains = [chart["layer"][2]["encoding"]["y"]["scale"]["domain"] for chart in charts]
    assert domains == [domains[0]] * 3

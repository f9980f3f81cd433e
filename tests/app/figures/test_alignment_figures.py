"""Lines of alignment are named at their ends."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.app.figures.alignment import spread


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

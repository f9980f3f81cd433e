"""The imported series show, along their axis, the rule that made them."""

import numpy as np
import pytest

from moescope.sample_data.gallery.series import (
    ANOMALIES,
    ANOMALY,
    GROUPS,
    REGIME_DAYS,
    SKILL_CAMERA,
    SKILL_STEPS,
    SKILLS,
    TURNS_PER_ACT,
    class_probabilities,
)


def leaders(trace, stream, by="position", **params):
    """The expert with the largest mean weight at each place of the axis, and the axis itself."""
    rows = trace.view("timeline", by=by, stream=stream, top=20, **params).to_pylist()
    best = {}
    for row in rows:
        if row["expert"] is not None and row["weight"] > best.get(row["x"], (0, None))[0]:
            best[row["x"]] = (row["weight"], row["expert"])
    return [expert for _, expert in best.values()], rows


@pytest.mark.parametrize("kind", [1, 3])
def test_a_video_shows_its_anomaly_where_it_happens(made, kind):
    found, _ = leaders(made("series"), "video", where={"anomaly": [ANOMALIES[kind - 1]]})
    assert found == [kind if snippet in ANOMALY else 0 for snippet in range(32)]


def test_stocks_change_group_every_twenty_days_on_an_axis_of_dates(made):
    found, rows = leaders(made("series"), "stocks", by="day")
    assert found == [day // REGIME_DAYS for day in range(REGIME_DAYS * GROUPS)]
    assert {row["axis"] for row in rows} == {"date"}
    assert sorted({row["at"] for row in rows}) == list(
        range(19723, 19723 + REGIME_DAYS * GROUPS)
    )  # from 2024-01-01


def test_a_drive_has_two_streams_that_follow_its_manoeuvres(made):
    steps = range(SKILL_STEPS * len(SKILLS))
    assert leaders(made("series"), "skill")[0] == [step // SKILL_STEPS for step in steps]
    assert leaders(made("series"), "camera")[0] == [SKILL_CAMERA[step // SKILL_STEPS] for step in steps]


def test_a_dialogue_goes_through_its_acts(made):
    assert leaders(made("series"), "dialogue")[0] == [
        turn // TURNS_PER_ACT for turn in range(4 * TURNS_PER_ACT)
    ]


def test_latent_classes_follow_the_covariate(made):
    rows = made("series").view("timeline", by="age", stream="classes").to_pylist()
    assert {row["axis"] for row in rows} == {"number"}
    for row in rows:
        np.testing.assert_allclose(row["weight"], class_probabilities(row["at"])[row["expert"]], atol=1e-3)

"""What the timeline and the reuse matrix draw and say is what their views hold."""

import pyarrow as pa
import pytest

from moescope.app.figures.structure.reuse import reuse_map
from moescope.app.figures.structure.timeline import MEASURES, timeline_chart
from moescope.app.sentences import timeline as sentences
from moescope.app.text.words import percent


def table(axis: str, places: list[tuple[str, float]]) -> pa.Table:
    """Two experts and the rest at each place; expert 3 falls from .5 to .1."""
    rows = []
    for number, (x, at) in enumerate(places):
        fall = 0.5 - 0.4 * number / max(len(places) - 1, 1)
        for expert, share in ((3, fall), (1, 0.3), (None, 0.7 - fall)):
            rows.append({
                "layer": 0, "stream": "decoder", "axis": axis, "x": x, "at": at, "expert": expert, "share": share,
                "low": None if expert is None else share - 0.05, "high": None if expert is None else share + 0.05,
                "chance": None if expert is None else 0.25, "use": share, "weight": share / 2, "tokens": 10,
                "prompts": 6,
            })  # fmt: skip
    return pa.Table.from_pylist(rows)


PLACES = {
    "number": [("0.01", 0.01), ("0.1", 0.1), ("3", 3.0)],
    "date": [("2024-01-01", 19723.0), ("2024-01-02", 19724.0), ("2024-03-01", 19783.0)],
    "order": [("start", 0.0), ("middle", 1.0), ("end", 2.0)],
    "position": [("0", 0.0), ("1", 1.0), ("2", 2.0)],
}


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("axis", PLACES)
def test_an_axis_is_drawn_as_what_it_is(axis, stacked):
    chart = timeline_chart(table(axis, PLACES[axis]), by="x", stacked=stacked).to_dict()
    x = chart["layer"][0]["encoding"]["x"]
    assert x["type"] == {"number": "quantitative", "date": "temporal", "order": "ordinal"}.get(
        axis, "quantitative"
    )
    assert (x.get("scale") or {}).get("type") == ("log" if axis == "number" else None)
    if axis == "order":
        assert x["sort"] == ["start", "middle", "end"]
    rows = next(iter(chart["datasets"].values()))
    assert ({row["label"] for row in rows} == {"expert 1", "expert 3", "others"}) is stacked


def test_lines_of_shares_have_their_interval_and_chance():
    chart = timeline_chart(
        table("position", PLACES["position"]), by="x", measure="share", stacked=False
    ).to_dict()
    marks = [layer["mark"]["type"] for layer in chart["layer"]]
    assert marks == ["area", "line", "rule"]


@pytest.mark.parametrize(
    ("measure", "first", "last"), [("use", percent(0.5), percent(0.1)), ("weight", "0.25", "0.05")]
)
def test_the_sentence_names_the_expert_that_changes_most(measure, first, last):
    text = sentences.timeline(table("position", PLACES["position"]), "position", measure)
    assert f"expert 3 changes most: its {MEASURES[measure]} is {first} at 0 and {last} at 2." in text


def test_the_reuse_sentence_counts_choices_of_other_layers():
    rows = [
        {
            "layer": 0,
            "stream": "decoder",
            "owner": 0,
            "experts": 2,
            "count": 60,
            "use": 0.6,
            "even": 0.5,
            "tokens": 50,
        },
        {
            "layer": 0,
            "stream": "decoder",
            "owner": 1,
            "experts": 2,
            "count": 40,
            "use": 0.4,
            "even": 0.5,
            "tokens": 50,
        },
        {
            "layer": 1,
            "stream": "decoder",
            "owner": 0,
            "experts": 2,
            "count": 80,
            "use": 0.8,
            "even": 0.5,
            "tokens": 50,
        },
        {
            "layer": 1,
            "stream": "decoder",
            "owner": 1,
            "experts": 2,
            "count": 20,
            "use": 0.2,
            "even": 0.5,
            "tokens": 50,
        },
    ]
    text = sentences.reuse(pa.Table.from_pylist(rows))
    assert text.startswith(
        f"{percent(0.6)} of all choices go to experts of another layer; even routing would give {percent(0.5)}."
    )
    assert f"layer 1 takes {percent(0.8)} of its choices from layer 0" in text
    assert len(reuse_map(pa.Table.from_pylist(rows)).to_dict()["layer"]) == 2

"""The routing map puts every cell where it belongs, whatever the shape of the model."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.app.figures.multiples import small_maps
from moescope.app.figures.routing_layout import lay_out
from moescope.app.figures.routing_map import Hover, color_scale, rounded, routing_map
from moescope.app.figures.specialised import kinds_map
from moescope.app.figures.theme import DARK, LIGHT
from moescope.app.screens.steer.switchboard import Underlay, payload


def cells(*routers: tuple[str, int, int], seed: int = 0) -> pa.Table:
    """A table of (stream, layer, number of experts) routers with random values."""
    rng = np.random.default_rng(seed)
    rows = [
        {"stream": stream, "layer": layer, "expert": expert, "value": float(rng.random()), "note": "a<b>"}
        for stream, layer, experts in routers
        for expert in range(experts)
    ]
    return pa.Table.from_pylist(rows)


def mark_rows(spec: dict, mark: int) -> list[dict]:
    return spec["datasets"][spec["layer"][mark]["data"]["name"]]


def test_layers_go_upwards_from_the_input_and_keep_their_numbers():
    table = cells(("decoder", 3, 2), ("decoder", 7, 2), ("encoder", 5, 2))
    assert lay_out(table, "value").row_labels == ["encoder 5", "decoder 3", "decoder 7"]
    assert lay_out(table, "value", reverse=True).row_labels == ["decoder 7", "decoder 3", "encoder 5"]


def test_layers_without_a_router_and_unequal_experts_leave_no_false_cells():
    table = cells(("decoder", 1, 4), ("decoder", 9, 2))
    layout = lay_out(table, "value")
    assert layout.num_ranks == 4
    spec = routing_map(table, "value").to_dict()
    drawn = {(row["layer"], row["expert"]) for row in mark_rows(spec, 0)}
    assert drawn == {(1, 0), (1, 1), (1, 2), (1, 3), (9, 0), (9, 1)}


@given(seed=st.integers(0, 1000), experts=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_sorted_by_load_every_row_falls_and_is_a_permutation(seed: int, experts: list[int]):
    table = cells(*[("decoder", layer, n) for layer, n in enumerate(experts)], seed=seed)
    layout = lay_out(table, "value", sort="load")
    for row, n in enumerate(experts):
        here = layout.row_C == row
        assert sorted(layout.rank_C[here]) == list(range(n))
        by_rank = layout.value_C[here][np.argsort(layout.rank_C[here])]
        assert (np.diff(by_rank) <= 0).all()


def test_unknown_values_sort_last_and_draw_without_a_number():
    table = pa.table({"layer": [0, 0, 0], "expert": [0, 1, 2], "value": [None, 0.2, 0.7]})
    assert lay_out(table, "value", sort="load").rank_C.tolist() == [2, 1, 0]
    values = {row["expert"]: row["value"] for row in mark_rows(routing_map(table, "value").to_dict(), 0)}
    assert values == {0: None, 1: 0.2, 2: 0.7}


def test_cells_stand_at_their_layer_and_expert():
    spec = routing_map(cells(("decoder", 0, 3), ("decoder", 1, 3)), "value").to_dict()
    for row in mark_rows(spec, 0):
        assert (row["x"], row["x2"]) == (row["expert"] - 0.5, row["expert"] + 0.5)
        assert (row["y"], row["y2"]) == (row["layer"] - 0.5, row["layer"] + 0.5)


def test_the_axis_says_which_way_the_layers_go():
    table = cells(*[("decoder", layer, 4) for layer in range(8)])

    def title(**look) -> str:
        return routing_map(table, "value", **look).to_dict()["layer"][0]["encoding"]["y"]["axis"]["title"]

    assert title() == "layer: input → output"
    assert title(reverse=True) == "layer: output ← input"


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_colours_run_from_background_to_ink_and_zero_of_a_difference_is_background(theme):
    table = cells(("decoder", 0, 4))
    scale = routing_map(table, "value", theme=theme).to_dict()["layer"][0]["encoding"]["color"]["scale"]
    assert scale["domain"][0] == 0
    assert scale["range"][0] == theme.background
    scale = routing_map(table, "value", theme=theme, diverging=True).to_dict()["layer"][0]["encoding"][
        "color"
    ]["scale"]
    assert scale["domain"][0] == -scale["domain"][-1]
    assert scale["range"][scale["domain"].index(0)] == theme.background


def test_the_top_margin_is_the_mean_over_layers():
    table = pa.table({"layer": [0, 0, 1, 1], "expert": [0, 1, 0, 1], "value": [0.2, 0.8, 0.4, 0.0]})
    spec = routing_map(table, "value").to_dict()
    means = [row["mean"] for row in mark_rows(spec, 2)]
    assert means == pytest.approx([0.3, 0.4])


def test_the_right_margin_belongs_to_the_row_of_its_layer():
    table = cells(("decoder", 2, 2), ("decoder", 5, 2))
    margin = pa.table({"layer": [5, 2], "value": [3.0, 1.5]})
    spec = routing_map(table, "value", layer_margin=("load", margin)).to_dict()
    bars = {row["layer"]: row for row in mark_rows(spec, 4)}
    assert (bars[2]["y"], bars[5]["y"]) == pytest.approx((-0.38, 0.62))
    width = [bars[layer]["x2"] - bars[layer]["x"] for layer in (2, 5)]
    assert width[1] == pytest.approx(2 * width[0])


def test_a_click_reports_stream_layer_and_expert():
    spec = routing_map(
        cells(("decoder", 0, 2)), "value", selected={"stream": "decoder", "layer": 0, "expert": 1}
    )
    (param,) = spec.to_dict()["params"]
    assert param["name"] == "cell"
    assert param["select"]["fields"] == ["stream", "layer", "expert"]
    assert param["value"] == [{"stream": "decoder", "layer": 0, "expert": 1}]


def test_the_hover_card_has_all_numbers():
    lines = [Hover(column="value", title="share", format=".1%"), Hover(column="note", title="note")]
    spec = routing_map(cells(("decoder", 0, 2)), "value", hover=lines).to_dict()
    card = spec["layer"][0]["encoding"]["tooltip"]
    assert [line.get("title", line["field"]) for line in card] == ["layer", "expert", "share", "note"]


def test_a_map_of_58_by_256_draws_every_cell():
    table = cells(*[("decoder", layer, 256) for layer in range(58)])
    spec = routing_map(table, "value").to_dict()
    assert len(mark_rows(spec, 0)) == 58 * 256
    assert 500 <= spec["height"] <= 640


def test_small_maps_share_a_scale_and_keep_their_cells_apart():
    first, second = (
        cells(("decoder", 0, 4), ("decoder", 1, 4)),
        cells(("decoder", 0, 4), ("decoder", 1, 4), seed=1),
    )
    table = pa.concat_tables(
        [t.append_column("language", pa.array([name] * 8)) for t, name in ((first, "en"), (second, "ja"))]
    )
    spec = small_maps(table, "value", "language", {"en": "English", "ja": "Japanese"}).to_dict()
    rows = next(rows for rows in spec["datasets"].values() if "expert" in rows[0])
    assert len({(row["x"], row["y"]) for row in rows}) == 16
    assert {row["of"] for row in rows} == {"English", "Japanese"}
    left = max(row["x2"] for row in rows if row["of"] == "English")
    assert left < min(row["x"] for row in rows if row["of"] == "Japanese")


def test_small_maps_outline_the_cell_under_the_pointer_in_every_map():
    one = cells(("decoder", 0, 4))
    table = pa.concat_tables([one.append_column("of", pa.array([name] * 4)) for name in "ab"])
    spec = small_maps(table, "value", "of", {"a": "A", "b": "B"}).to_dict()
    hover = next(param for param in spec["params"] if param["name"] == "hover")
    assert hover["select"]["fields"] == ["stream", "layer", "expert"]  # and not the map
    marks = [
        mark
        for mark in spec["layer"]
        if mark.get("transform") == [{"filter": {"param": "hover", "empty": False}}]
    ]
    (outlined,) = marks
    rows = spec["datasets"][outlined["data"]["name"]]
    assert [(r["of"], r["expert"]) for r in rows if r["expert"] == 2] == [("A", 2), ("B", 2)]
    assert outlined["mark"]["tooltip"] is None  # else it would hide the card of the cell beneath


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="at least one cell"):
        routing_map(cells(("decoder", 0, 1)).slice(0, 0), "value")


def test_a_map_of_many_specialised_experts_names_no_more_than_fit():
    grid = cells(*(("decoder", layer, 256) for layer in range(3, 61)))
    grid = grid.drop_columns(["value", "note"])
    for name, value in {"kind": "none", "languages": "no language", "delta": 0.0}.items():
        grid = grid.append_column(name, pa.array([value] * grid.num_rows))
    spec = kinds_map(grid).to_dict()
    assert spec["encoding"]["x"]["axis"]["values"] == list(range(0, 256, 8))
    assert spec["encoding"]["y"]["axis"]["values"] == list(range(5, 61, 5))


def test_the_middle_of_a_difference_has_no_sign():
    spec = routing_map(cells(("decoder", 0, 4)), "value", diverging=True, value_format="+.0%").to_dict()
    label = spec["layer"][0]["encoding"]["color"]["legend"]["labelExpr"]
    assert label == "datum.value == 0 ? '0' : format(datum.value, '+.0%')"


def test_at_percentiles_each_colour_step_holds_as_many_cells():
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=4_000)
    for diverging in (False, True):
        signs = rng.choice([-1, 1], 4_000) if diverging else 1
        layout = SimpleNamespace(value_C=values * signs)
        stops = color_scale(layout, LIGHT, diverging=diverging, steps="percentile").to_dict()["domain"]  # pyright: ignore[reportArgumentType]
        assert stops == sorted(set(stops))
        upper = [stop for stop in stops if stop >= 0]
        held = np.histogram(values, upper)[0]
        assert max(held) - min(held) <= 2


def test_the_switchboard_of_a_large_model_has_the_colours_of_the_heatmap():
    for experts, percentile in ((32, False), (1_600, True)):
        table = cells(("decoder", 0, experts), ("decoder", 1, experts))
        sent = payload(Underlay(table=table, label="share"), {}, {}, LIGHT)
        scale = routing_map(table, "value", steps=None).to_dict()["layer"][0]["encoding"]["color"]["scale"]
        assert sent["by_percentile"] == percentile
        assert sent["stops"] == pytest.approx(scale["domain"])
        difference = payload(Underlay(table=table, label="score", diverging=True), {}, {}, LIGHT)
        assert not difference["by_percentile"]  # its noise would look like its findings


def test_equal_values_leave_the_stops_of_a_scale_apart():
    layout = SimpleNamespace(value_C=np.r_[np.zeros(3_990), np.ones(10)])
    stops = color_scale(layout, LIGHT, diverging=False, steps="percentile").to_dict()["domain"]  # pyright: ignore[reportArgumentType]
    assert stops == sorted(set(stops))
    assert stops[-1] == 1


def test_numbers_for_the_browser_keep_five_digits():
    given = np.array([0.0, np.nan, 1_234_567.8, -0.000123456])
    assert rounded(given).tolist()[2:] == [1_234_600.0, -0.00012346]
    assert np.isnan(rounded(given)[1])

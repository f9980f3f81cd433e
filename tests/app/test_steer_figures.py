"""The Steer page's figures and the numbers in its sentences, against hand-made answers."""

from __future__ import annotations

import pyarrow as pa
import pytest

from moescope.app.figures.steer import steering_strip
from moescope.app.figures.steer_map import SIGNS, switchboard_map
from moescope.app.sentences_steering import board, strip
from moescope.app.steer_edit import Cell, State
from moescope.app.steer_history import Draft
from moescope.app.steer_result import Answers
from moescope.app.switchboard import STATES, Underlay, payload
from moescope.app.theme import LIGHT
from moescope.store import RouterSpec

ROUTERS = [RouterSpec(layer=layer, num_experts=3, top_k=1, router=f"r{layer}") for layer in (2, 5)]


def answers() -> Answers:
    made = Answers("p", Draft())
    for index, (kl, changed) in enumerate([(0.0, []), (None, ["5"]), (0.5, ["2", "5"])]):
        for side in ("base", "steered"):
            made.add(
                {"side": side, "index": index, "token_id": index, "token": f"'\\{index}\u202e", "text": f"{index}",
                 "logprob": -1.0, "experts": {"2": [0], "5": [1]}, "kl": kl, "changed": changed}
            )  # fmt: skip
    return made


def load() -> pa.Table:
    return pa.table(
        {"stream": ["decoder"] * 6, "layer": [2, 2, 2, 5, 5, 5], "expert": [0, 1, 2] * 2, "count": [6, 3, 1, 5, 5, 0],
         "value": [0.6, 0.3, 0.1, 0.5, 0.5, None]}
    )  # fmt: skip


def test_the_board_says_what_its_experts_take_of_the_routing_in_their_layers():
    said = board({("decoder", 2, 0): "off"}, load())
    assert said == (
        "1 of 6 experts is steered: 1 off. In its layer it takes 60\u202f% of the recorded routing; "
        "even routing would give 33.3\u202f%."
    )
    said = board({("decoder", 2, 0): "off", ("decoder", 5, 2): "on"}, load())
    assert "2 of 6 experts are steered: 1 off and 1 on. In their 2 layers they take 30\u202f%" in said
    assert board({}, load()) == "No single expert of 6 is steered."


def test_the_strip_names_the_largest_finite_kl_and_the_layer_that_changes_most():
    said = strip(answers(), "base")
    assert (
        said == "Largest KL: 0.5 nats at token 2. Layer 5 changes most often: at 66.7\u202f% of the tokens."
    )


def test_the_strip_draws_a_cell_for_every_token_and_router_and_a_column_to_click():
    made = answers()
    chart = steering_strip(made.strip("base"), made.grid("base", ROUTERS)).to_dict()
    data = [chart["datasets"][layer["data"]["name"]] for layer in chart["layer"]]
    cells, bars, columns = data[0], data[1], data[-1]
    assert [(cell["position"], cell["layer"], cell["changed"]) for cell in cells] == [
        (0, 2, False), (0, 5, False), (1, 2, False), (1, 5, True), (2, 2, True), (2, 5, True),
    ]  # fmt: skip
    heights = [bar["y2"] - bar["y"] for bar in bars]
    assert heights[0] == heights[1] == 0
    assert heights[2] > 0
    assert [column["position"] for column in columns] == [0, 1, 2]
    with pytest.raises(ValueError, match="at least one token"):
        steering_strip(made.strip("base").slice(0, 0), made.grid("base", ROUTERS))


def test_the_exported_board_has_a_sign_on_every_steered_cell_that_it_shows():
    states = {("decoder", 5, 1): "on", ("decoder", 2, 0): "off", ("decoder", 9, 0): "off"}
    chart = switchboard_map(load(), states, label="share").to_dict()
    signs = chart["datasets"][chart["layer"][-1]["data"]["name"]]
    assert [(sign["x"], sign["y"], sign["sign"]) for sign in signs] == [
        (1, 1, SIGNS["on"]),
        (0, 0, SIGNS["off"]),
    ]


def test_the_browser_gets_values_and_states_row_after_row_from_the_input():
    import base64

    import numpy as np

    table = load().select(["stream", "layer", "expert", "value"])
    states: dict[Cell, State] = {("decoder", 5, 2): "up", ("decoder", 2, 1): "off", ("decoder", 5, 99): "off"}
    data = payload(Underlay(table=table, label="share"), states, {("decoder", 5): ["top_k"]}, LIGHT)
    assert [(row["layer"], row["start"], row["experts"], row["rules"]) for row in data["rows"]] == [
        (2, 0, 3, []), (5, 3, 3, ["top_k"]),
    ]  # fmt: skip
    values = np.frombuffer(base64.b64decode(data["values"]), np.float32)
    assert np.allclose(values, [0.6, 0.3, 0.1, 0.5, 0.5, np.nan], equal_nan=True)
    shown = np.frombuffer(base64.b64decode(data["states"]), np.uint8)
    assert shown.tolist() == [0, STATES.index("off") + 1, 0, 0, 0, STATES.index("up") + 1]
    assert data["top"] == pytest.approx(0.6)

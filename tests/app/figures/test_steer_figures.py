"""The Steer page's figures and the numbers in its sentences, against hand-made answers."""

from __future__ import annotations

import pyarrow as pa
import pytest

from moescope.app.figures.steer import MOST_PROMPT, steering_strip
from moescope.app.figures.steer_effects import effects_chart, label_of
from moescope.app.figures.steer_map import SIGNS, switchboard_map
from moescope.app.figures.theme import LIGHT
from moescope.app.screens.steer.switchboard import STATES, Underlay, payload
from moescope.app.sentences import evaluation
from moescope.app.sentences.answers import board, strip
from moescope.app.steering.answers import SIDES, Answers, Side
from moescope.app.steering.edit import State
from moescope.app.steering.history import Draft
from moescope.store import RouterSpec
from moescope.store.schema import Cell, RouterKey

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


def with_prompt(prompt: int = 2) -> Answers:
    """The same after a prompt of which so many tokens are told."""
    made = answers()
    made.prompt = "p" + "".join(f"x{at}" for at in range(1, prompt + 1))
    told = [
        {"position": at, "token_id": at, "token": f"x{at}", "logprob": {"base": -1.0, "steered": -2.0}, "kl": at / 4,
         "experts": {"base": {"2": [0], "5": [1]}, "steered": {"2": [0], "5": [2]}}, "changed": ["5"],
         "candidates": {"base": [[7, "b", -0.5]], "steered": [[8, "s", -1.0]]}}
        for at in range(1, prompt + 1)
    ]  # fmt: skip
    made.add({"done": True, "prompt_positions": told, "prompt_note": None})
    return made


def load() -> pa.Table:
    return pa.table(
        {"stream": ["decoder"] * 6, "layer": [2, 2, 2, 5, 5, 5], "expert": [0, 1, 2] * 2, "count": [6, 3, 1, 5, 5, 0],
         "value": [0.6, 0.3, 0.1, 0.5, 0.5, None]}
    )  # fmt: skip


def test_the_board_says_what_its_experts_take_of_the_routing_in_their_layers():
    said = board({Cell("decoder", 2, 0): "off"}, load())
    assert said == (
        "1 of 6 experts is steered: 1 off. In its layer it takes 60\u202f% of the recorded routing; "
        "even routing would give 33.3\u202f%."
    )
    said = board({Cell("decoder", 2, 0): "off", Cell("decoder", 5, 2): "on"}, load())
    assert "2 of 6 experts are steered: 1 off and 1 on. In their 2 layers they take 30\u202f%" in said
    assert board({}, load()) == "No single expert of 6 is steered."


def test_changes_of_shares_are_in_points_and_those_of_perplexity_in_percent():
    row = {"change": 0.25, "low": -0.1, "high": 0.5}
    assert evaluation.number(row, "accuracy") == ("+25\u202fpoints (95 % −10\u202fpoints to +50\u202fpoints)")
    assert evaluation.number(row, "perplexity") == "+25\u202f% (95 % −10\u202f% to +50\u202f%)"
    assert evaluation.number(row, "kl") == "+0.250 (95 % −0.100 to +0.500)"
    assert label_of("behaviour: refusal") == "change of the rate of refusal, percentage points"


def test_the_strip_names_the_largest_finite_kl_and_the_layer_that_changes_most():
    said = strip(answers(), "base")
    assert (
        said
        == "Largest KL: 0.5 nats at token 2. Layer 5 changes most often: at 66.7\u202f% of the tokens drawn."
    )


def test_the_strip_draws_a_cell_for_every_token_and_router_and_a_column_to_click():
    made = answers()
    chart = steering_strip(made.strip("base"), made.grid("base", ROUTERS)).to_dict()
    data = [chart["datasets"][layer["data"]["name"]] for layer in chart["layer"]]
    cells, bars, columns = data[0], data[1], data[-1]
    assert [(cell["column"], cell["layer"], cell["changed"]) for cell in cells] == [
        (0, 2, False), (0, 5, False), (1, 2, False), (1, 5, True), (2, 2, True), (2, 5, True),
    ]  # fmt: skip
    heights = [bar["y2"] - bar["y"] for bar in bars]
    assert heights[0] == heights[1] == 0
    assert heights[2] > 0
    assert [column["column"] for column in columns] == [0, 1, 2]
    assert [column["changes"] for column in columns] == [
        "",
        "layer 5: none → none",
        "layer 2: none → none; layer 5: none → none",
    ]
    with pytest.raises(ValueError, match="at least one token"):
        steering_strip(made.strip("base").slice(0, 0), made.grid("base", ROUTERS))


def test_the_prompt_stands_left_of_a_line_with_the_experts_that_took_others_places():
    made = with_prompt()
    side: Side = "steered"
    strip_table = made.strip(side)
    assert strip_table["phase"].to_pylist() == ["prompt"] * 2 + ["answer"] * 3
    assert strip_table["position"].to_pylist() == [1, 2, 0, 1, 2]
    assert strip_table["kl"].to_pylist() == [0.25, 0.5, 0.0, None, 0.5]
    assert strip_table["logprob"].to_pylist() == [-2.0, -2.0, -1.0, -1.0, -1.0]
    assert strip_table["changes"].to_pylist()[:2] == ["layer 5: 1 → 2"] * 2
    assert made.grid("steered", ROUTERS)["experts"].to_pylist()[:4] == ["0", "2", "0", "2"]
    chart = steering_strip(strip_table, made.grid("steered", ROUTERS)).to_dict()
    (line,) = [layer for layer in chart["layer"] if layer["mark"]["type"] == "rule"]
    assert chart["datasets"][line["data"]["name"]][0]["x"] == 1.5
    names = [
        chart["datasets"][layer["data"]["name"]][0]["text"]
        for layer in chart["layer"]
        if layer["mark"]["type"] == "text"
    ]
    assert names == ["KL(base || steered), up to 0.5 nats", "prompt", "answer"]


def test_candidates_of_a_prompt_token_stand_after_the_text_before_it():
    made = with_prompt()
    assert [made.before("base", column) for column in range(4)] == ["p", "px1", "px1x2", "px1x20"]
    assert made.candidates("base", 1).to_pylist() == [
        {"token_id": 7, "token": "b", "base": pytest.approx(0.6065, abs=1e-4), "steered": None},
        {"token_id": 8, "token": "s", "base": None, "steered": pytest.approx(0.3679, abs=1e-4)},
    ]


def test_a_prompt_that_differs_is_said_though_the_answers_are_the_same():
    made = with_prompt()
    for side in SIDES:
        made.events[side] = [{**event, "kl": 0.0, "changed": []} for event in made.events[side]]
    assert not made.untouched
    made.done = {"done": True}
    assert made.untouched
    said = strip(with_prompt(), "base")
    assert said.startswith(
        "Largest KL: 0.5 nats at token 2 of the prompt. Along the prompt it is 0.375 nats on"
    )


def test_of_a_long_prompt_the_last_tokens_are_drawn():
    made = with_prompt(MOST_PROMPT + 30)
    chart = steering_strip(made.strip("base"), made.grid("base", ROUTERS)).to_dict()
    data = [chart["datasets"][layer["data"]["name"]] for layer in chart["layer"]]
    assert [column["column"] for column in data[-1]] == list(range(30, MOST_PROMPT + 33))
    assert {cell["column"] for cell in data[0]} == set(range(30, MOST_PROMPT + 33))
    assert f"prompt, its last {MOST_PROMPT} tokens" in str(chart["datasets"])
    assert made.grid("base", ROUTERS).num_rows == 2 * (MOST_PROMPT + 33)


def test_the_exported_board_has_a_sign_on_every_steered_cell_that_it_shows():
    states = {Cell("decoder", 5, 1): "on", Cell("decoder", 2, 0): "off", Cell("decoder", 9, 0): "off"}
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
    states: dict[Cell, State] = {
        Cell("decoder", 5, 2): "up",
        Cell("decoder", 2, 1): "off",
        Cell("decoder", 5, 99): "off",
    }
    data = payload(Underlay(table=table, label="share"), states, {RouterKey("decoder", 5): ["top_k"]}, LIGHT)
    assert [(row["layer"], row["start"], row["experts"], row["rules"]) for row in data["rows"]] == [
        (2, 0, 3, []), (5, 3, 3, ["top_k"]),
    ]  # fmt: skip
    values = np.frombuffer(base64.b64decode(data["values"]), np.float32)
    assert np.allclose(values, [0.6, 0.3, 0.1, 0.5, 0.5, np.nan], equal_nan=True)
    shown = np.frombuffer(base64.b64decode(data["states"]), np.uint8)
    assert shown.tolist() == [0, STATES.index("off") + 1, 0, 0, 0, STATES.index("up") + 1]
    assert data["top"] == pytest.approx(0.6)


def test_one_control_far_away_does_not_stretch_the_axis():
    def row(kind: str, change: float, variant: str = "") -> dict[str, object]:
        return {"measure": "perplexity", "kind": kind, "group": "all", "variant": variant or kind, "finding": None,
                "why": "", "change": change, "low": change - 0.1, "high": change + 0.1}  # fmt: skip

    near = [row("profile", 0.7), row("random", 0.05, "random 1"), row("layers", 1.0)]
    more = [row("random", 1.15, "random 2"), row("opposite", 2.75)]
    spec = effects_chart(pa.Table.from_pylist([*near, *more]), "perplexity").to_dict()
    # The profile reaches from 0 to 0.8; half as much again is 1.2.
    scales = [layer["encoding"]["x"]["scale"]["domain"] for layer in spec["layer"]]
    assert scales == [pytest.approx([-0.05, 1.2])] * len(scales)
    rows = [one for data in spec["datasets"].values() for one in data if one.get("kind")]
    assert {one["kind"]: one["its number"] for one in rows if one["beyond"] == "right"} == {
        "opposite": "+275\u202f%"
    }
    assert [one["variant"] for one in rows if one["cut_right"]] == ["random 2"]  # from 1.05 to 1.25
    assert any(layer["mark"].get("shape") == "triangle-right" for layer in spec["layer"])
    spec = effects_chart(pa.Table.from_pylist(near), "perplexity").to_dict()
    assert spec["layer"][0]["encoding"]["x"]["scale"]["domain"] == pytest.approx([-0.05, 1.1])

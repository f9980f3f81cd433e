"""Each control of the Resonance page against numbers that plain pandas gets from the events."""

# The types that pandas declares for groupby and itertuples do not know their columns.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportReturnType=false, reportCallIssue=false
# pyright: reportOptionalSubscript=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from page_test import drawn, text_of
from PIL import Image
from streamlit.testing.v1 import AppTest

from moescope.app.figures.resonance import two_scores
from moescope.app.figures.routing_map import routing_map
from moescope.app.figures.thresholds import Threshold, only_survivors, survivors
from moescope.app.screens.resonance import scan_player
from moescope.app.screens.resonance.classes import as_text, parse_rules
from moescope.app.screens.resonance.scan import boxed, in_box
from moescope.app.screens.resonance.top import strongest
from moescope.app.steering import profiles
from moescope.store import StoreError, TraceWriter, open_trace
from moescope.store.response_classes import REFUSAL_RULES
from moescope.store.schema import Cell
from moescope.store.slices import Slice, save_slice, weights_of
from moescope.store.write.synthetic import Synthetic, synthetic_parts, write_synthetic

PLAN = Synthetic(prompts=40, languages=2, layers=2, experts=8, top_k=2, tokens_per_prompt=24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("resonance") / "trace"
    write_synthetic(str(path), PLAN)
    return path


@pytest.fixture(scope="module")
def slots(folder):
    """One row an event and slot, with language, group and text of its prompt."""
    trace = open_trace(folder)
    events = trace.events(columns=["prompt_id", "layer", "position", "experts"]).to_pandas()
    slots = events.explode("experts").rename(columns={"experts": "expert"}).astype({"expert": int})
    slots = slots.merge(trace.tokens().to_pandas(), on=["prompt_id", "position"])
    return slots.merge(trace.prompts().select(["prompt_id", "language", "group"]).to_pandas(), on="prompt_id")


def rates(slots: pd.DataFrame) -> pd.DataFrame:
    """prompt_id × (layer, expert): share of the prompt's tokens."""
    uses = slots.groupby(["prompt_id", "layer", "expert"]).size().unstack(["layer", "expert"], fill_value=0)
    return uses.div(slots.groupby("prompt_id")["position"].nunique(), axis=0)


def run(folder, **state) -> AppTest:
    return drawn("resonance", folder, **{"contrast": "language", "target": "de", "rest": "en", **state})


def top_of(app: AppTest) -> pd.DataFrame:
    """The ranking: the table that has scores."""
    return next(frame.value for frame in app.dataframe if "score" in frame.value)


def profile_of(app: AppTest) -> dict:
    """What the button sends to Steer."""
    app.button(key="resonance-steer").click().run()
    page, params = app.session_state["travel"]
    assert page == "steer"
    return profiles.from_address(params["profile"])


def test_the_ranking_has_scores_shares_and_tokens(folder, slots):
    table = top_of(run(folder, top=5))
    maps = rates(slots)
    german = slots[slots["language"] == "de"]["prompt_id"].unique()
    difference = maps.loc[german].mean() - maps.drop(german).mean()
    order = difference.abs().sort_values(ascending=False)
    assert list(zip(table["layer"], table["expert"], strict=True)) == list(order.index[:5])
    for row in table.itertuples():
        assert row.score == pytest.approx(difference[row.layer, row.expert])
        assert row.target_share == pytest.approx(maps.loc[german, (row.layer, row.expert)].mean())
    best = order.index[0]
    uses = slots[(slots["layer"] == best[0]) & (slots["expert"] == best[1])]
    weight = np.where(uses["language"] == "de", 1 / len(german), -1 / (len(maps) - len(german)))
    weight = weight / uses["prompt_id"].map(slots.groupby("prompt_id")["position"].nunique())
    parts = weight.groupby(uses["token"]).sum()
    token = parts.abs().idxmax()
    assert table["tokens"][0].startswith(f"{token.strip() or '␣'} {parts[token]:+.3f}")


def test_a_threshold_on_the_score_counts_its_survivors(folder, slots):
    maps = rates(slots)
    german = slots[slots["language"] == "de"]["prompt_id"].unique()
    difference = maps.loc[german].mean() - maps.drop(german).mean()
    text = text_of(run(folder, **{"by-what": "score", "score": 0.2}))
    up, down = (difference >= 0.2).sum(), (difference <= -0.2).sum()
    assert f"{up + down} of 16 experts have |score| ≥ 0.2: {up} towards A, {down} towards B." in text
    assert "size alone is no evidence" in text


def test_without_template_tokens_the_numbers_are_those_of_the_text(folder, slots):
    app = run(folder, special=False)
    maps = rates(slots[~slots["special"]])
    german = slots[slots["language"] == "de"]["prompt_id"].unique()
    difference = maps.loc[german].mean() - maps.drop(german).mean()
    first = top_of(app).iloc[0]
    assert first["score"] == pytest.approx(difference[first["layer"], first["expert"]])
    assert "Special and template tokens are left out" in text_of(app)


def test_the_last_tokens_alone(folder, slots):
    app = run(folder, span="last", last=3)
    late = slots[slots["position"] > slots.groupby("prompt_id")["position"].transform("max") - 3]
    maps = rates(late)
    german = slots[slots["language"] == "de"]["prompt_id"].unique()
    first = top_of(app).iloc[0]
    column = maps[first["layer"], first["expert"]]
    assert first["score"] == pytest.approx(column[german].mean() - column.drop(german).mean())
    assert "only the last 3 prompt tokens" in text_of(app)


def test_a_span_without_tokens_is_said_and_not_drawn(folder):
    text = text_of(run(folder, span="generated"))
    assert "The groups could not be contrasted" in text
    assert "has any token of the chosen span" in text


def test_groups_by_a_condition(folder, slots):
    app = run(folder, groups="condition", **{"a-where": "language = 'de' AND \"group\" = 'even'"})
    ids = slots[(slots["language"] == "de") & (slots["group"] == "even")]["prompt_id"].unique()
    assert f"{len(ids)} prompts" in text_of(app)
    maps = rates(slots)
    first = top_of(app).iloc[0]
    column = maps[first["layer"], first["expert"]]
    assert first["score"] == pytest.approx(column[ids].mean() - column.drop(ids).mean())
    wrong = run(folder, groups="condition", **{"a-where": "nonsense ="})
    assert "These are not two groups" in text_of(wrong)


def test_groups_picked_by_hand_stay_in_the_address(folder, slots):
    picked = {"A": ["p000000", "p000003", "p000005"], "B": ["p000001", "p000002"]}
    app = run(folder, groups="picked", **{"picked prompts": picked})
    assert app.query_params["pick-a"] == picked["A"]
    maps = rates(slots)
    first = top_of(app).iloc[0]
    column = maps[first["layer"], first["expert"]]
    assert first["score"] == pytest.approx(column[picked["A"]].mean() - column[picked["B"]].mean())


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A trace whose prompts were answered: every third refuses."""
    folder = tmp_path_factory.mktemp("answered") / "trace"
    answers = ["I'm sorry, I can't.", "It is Paris.", "It is Rome."]
    with TraceWriter(
        str(folder), routers=PLAN.routers(), model={"name": "m"}, prompt_set={"fingerprint": "a"}, settings={}
    ) as out:
        for number, part in enumerate(synthetic_parts(PLAN)):
            given = [answers[i % 3] for i in range(part.prompts.num_rows)]
            part.prompts = part.prompts.append_column("generated", pa.array(given, pa.string()))
            assert number == 0
            out.write(part)
        out.finish()
    return folder


def test_groups_by_what_was_answered(answered):
    app = run(answered, groups="class", target="refusal", rest="all others")
    text = text_of(app)
    assert "A: refusal" in text
    assert "14 prompts" in text
    shown = next(frame.value for frame in app.dataframe if "matched" in frame.value)
    assert (shown["class"] == "refusal").sum() == 14
    assert set(shown[shown["class"] == "refusal"]["matched"]) == {"I'm sorry"}
    assert app.selectbox(key="span").value == "prompt"
    assert "A class then defines itself" not in text
    app.selectbox(key="span").set_value("generated").run()
    assert "A class then defines itself" in text_of(app)
    app.segmented_control(key="groups").set_value("tag").run()
    assert app.selectbox(key="span").value == "bar"
    assert "A class then defines itself" not in text_of(app)
    app.segmented_control(key="groups").set_value("class").run()
    assert app.selectbox(key="span").value == "prompt"
    app.text_area(key="rules").set_value("city: Paris|Rome\ncity: London").run()
    app.selectbox(key="target").set_value("city").run()
    assert not app.exception
    assert "26 prompts" in text_of(app)


def test_rules_are_read_line_by_line():
    assert parse_rules(as_text(REFUSAL_RULES)) == {name: list(found) for name, found in REFUSAL_RULES.items()}
    assert parse_rules("a: x: y\n\nb:z\na: w") == {"a": ["x: y", "w"], "b": ["z"]}
    with pytest.raises(StoreError, match="line 2"):
        parse_rules("a: x\nno colon here")


def test_what_goes_to_steering_is_what_stands_on_the_page(folder):
    app = run(folder, top=3, rule="scale", beta=0.5, toward="B")
    table = open_trace(folder).view("resonance", by="language", target="de", rest="en").to_pandas()
    sure = table[(table["q"] <= 0.05) & (table["score"] < 0)].nsmallest(3, "score")
    made = profile_of(app)
    cells = {(rule["layers"][0], expert) for rule in made["rules"] for expert in rule["experts"]}
    assert cells == set(zip(sure["layer"], sure["expert"], strict=True))
    assert {(rule["rule"], rule["amount"]) for rule in made["rules"]} == {("scale", 0.5)}


def test_a_set_of_experts_that_was_found_elsewhere_is_what_is_ranked_and_steered(folder, monkeypatch):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(folder.parent))
    trace = open_trace(folder)
    experts = (Cell("decoder", 0, 3), Cell("decoder", 1, 5), Cell("decoder", 1, 6))
    save_slice(folder.parent, Slice(name="my box", experts=experts, model=weights_of(trace)))
    app = run(folder, experts="my box")
    table = top_of(app)
    assert {*zip(table["layer"], table["expert"], strict=True)} == {(0, 3), (1, 5), (1, 6)}
    said = " ".join(element.proto.body for element in app.get("html"))
    assert "“my box”: 3 experts with a mean score of" in said
    assert {(rule["layers"][0], *rule["experts"]) for rule in profile_of(app)["rules"]} == {(0, 3), (1, 5, 6)}


def test_the_second_contrast_is_compared(folder):
    app = run(folder, top=4, **{"other-tag": "group", "other-target": "even"})
    trace = open_trace(folder)
    tops = []
    for by, target, rest in (("language", "de", "en"), ("group", "even", None)):
        params = {"rest": rest} if rest else {}
        table = trace.view("resonance", by=by, target=target, permutations=20, **params).to_pandas()
        best = table.nlargest(4, "score")
        tops.append(set(zip(best["layer"], best["expert"], strict=True)))
    shared = len(tops[0] & tops[1])
    expected = f"{shared} of the top 4 experts are the same (Jaccard {shared / (8 - shared):.2f})"
    assert expected in text_of(app)


def test_group_means_and_single_prompts_stand_on_one_scale(folder, slots):
    app = run(folder, behind="maps")
    maps = rates(slots)
    first, second = app.selectbox(key="prompt A").value, app.selectbox(key="prompt B").value
    assert second == f"p{int(first[1:]) - 1:06d}", "B begins with the translation of A's prompt"
    german = slots[slots["language"] == "de"]["prompt_id"].unique()
    rows = [maps.loc[german].mean(), maps.drop(german).mean(), maps.loc[first], maps.loc[second]]
    assert f"The largest is {max(row.max() for row in rows):.3g}," in text_of(app)


def test_thresholds():
    table = pa.table({"q": [0.01, 0.2, 0.05], "score": [0.1, -0.5, 0.0], "effect": [1.0, -3.0, 0.0]})
    assert survivors(table, Threshold(kind="q", value=0.05))["score"].to_pylist() == [0.1, 0.0]
    assert survivors(table, Threshold(kind="score", value=0.1))["score"].to_pylist() == [0.1, -0.5]
    assert survivors(table, Threshold(kind="effect", value=2))["score"].to_pylist() == [-0.5]
    assert only_survivors(table, Threshold(kind="effect", value=2))["score"].to_pylist() == [0.0, -0.5, 0.0]


def test_a_box_takes_the_cells_that_it_touches():
    rows = [
        {"layer": layer, "stream": "decoder", "expert": expert, "score": 0.1 * expert}
        for layer in (3, 5) for expert in range(4)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows)
    assert in_box(table, [{"x": [0.6, 2.2], "y": [0.9, 0.7]}]) == [(5, 1), (5, 2)]
    assert in_box(table, [{"x": [3.4, 9.0], "y": [-1, 4]}]) == [(3, 3), (5, 3)]
    assert in_box(table, []) == []
    spec = boxed(routing_map(table, "score", diverging=True), True).to_dict()
    assert "box" in {param["name"] for param in spec["params"]}


def test_the_strongest_are_of_one_direction():
    rows = [(0, 1, 0.5, 0.01), (0, 2, -0.9, 0.01), (1, 3, 0.7, 0.5), (1, 4, -0.1, 0.02)]
    names = ("layer", "expert", "score", "q")
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])
    assert strongest(table, None, 5, False) == [(1, 3), (0, 1)]
    assert strongest(table, Threshold(), 5, False) == [(0, 1)]
    assert strongest(table, Threshold(), 1, True) == [(0, 2)]


def test_the_film_is_the_scan_in_255_steps(folder):
    steps = open_trace(folder).view("prompt-scan", prompt_a="p000000", prompt_b="p000001", frames=6)
    film = scan_player.film(steps, "a <b> − c")
    last = [row for row in steps.to_pylist() if row["frame"] == 6]
    largest = max(abs(value) for row in last for value in row["difference"])
    assert film.top == pytest.approx(largest)
    for row in last:
        shown = (
            (film.cells_FLE[5, row["layer"]].astype(float) - scan_player.MIDDLE)
            / scan_player.MIDDLE
            * largest
        )
        assert shown == pytest.approx(row["difference"], abs=largest / 200)
    gif = Image.open(io.BytesIO(scan_player.to_gif(film)))
    assert gif.format == "GIF"
    assert gif.n_frames == 6
    page = scan_player.to_html(film).decode()
    assert "<title>a &lt;b&gt; − c</title>" in page
    assert "<b> −" not in page
    assert "http" not in page


def test_two_scores_colour_what_both_have():
    one = pa.table({"layer": [0, 0, 1], "expert": [0, 1, 0], "score": [0.5, 0.1, -0.2]})
    other = pa.table({"layer": [1, 0, 0], "expert": [0, 1, 0], "score": [0.3, 0.2, 0.4]})
    chart = two_scores(one, other, ({(0, 0)}, {(0, 0), (1, 0)}), ("a", "b"))
    (data,) = [rows for rows in chart.to_dict()["datasets"].values() if len(rows) == 3]
    assert {(row["layer"], row["expert"], row["other"], row["in top"]) for row in data} == {
        (0, 0, 0.4, "both"), (0, 1, 0.2, "neither"), (1, 0, 0.3, "second only"),
    }  # fmt: skip
    json.dumps(data)

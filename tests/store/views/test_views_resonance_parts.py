"""What a contrast is made of: tokens, single prompts, running scans, classes; against single events."""

# The types that pandas declares for groupby and itertuples do not know their columns.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportReturnType=false, reportCallIssue=false
# pyright: reportOptionalSubscript=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false

import numpy as np
import pytest

from moescope.store import StoreError, open_trace
from moescope.store.notes import notes_of
from moescope.store.write.synthetic import Synthetic, write_synthetic

PLAN = Synthetic(prompts=24, languages=3, layers=2, experts=8, top_k=2, part_tokens=400, tokens_per_prompt=30)


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts") / "trace"
    write_synthetic(str(folder), PLAN)
    return open_trace(folder)


@pytest.fixture(scope="module")
def frame(trace):
    """One row an event and slot: everything that follows is plain pandas on it."""
    events = trace.events(columns=["prompt_id", "layer", "position", "experts", "weights"]).to_pandas()
    tokens = trace.tokens().to_pandas()
    slots = events.explode(["experts", "weights"]).rename(columns={"experts": "expert", "weights": "weight"})
    slots = slots.merge(tokens, on=["prompt_id", "position"])
    about = trace.prompts().select(["prompt_id", "language"]).to_pandas()
    return slots.merge(about, on="prompt_id").astype({"weight": float, "expert": int})


@pytest.mark.parametrize("measure", ["rate", "weight_rate", "count", "weight"])
@pytest.mark.parametrize("paired", [True, False])
def test_contributions_sum_to_the_score(trace, measure, paired):
    params = {"by": "language", "target": "de", "rest": "en", "measure": measure, "paired": paired}
    scores = trace.view("resonance", permutations=50, stability=0, **params).to_pylist()
    cells = [(row["layer"], row["expert"]) for row in scores]
    parts = trace.view("resonance-tokens", cells=cells, limit=0, **params).to_pandas()
    sums = parts.groupby(["layer", "expert"])["contribution"].sum()
    for row in scores:
        assert sums.get((row["layer"], row["expert"]), 0.0) == pytest.approx(row["score"], abs=1e-6)


def test_contributions_of_the_last_tokens_sum_to_their_score(trace):
    params = {"by": "language", "target": ["de"], "rest": ["en"], "last": 4}
    scores = trace.view("resonance", permutations=50, stability=0, **params).to_pylist()
    parts = trace.view("resonance-tokens", cells="1:3", limit=0, **params).to_pandas()
    expected = next(row["score"] for row in scores if (row["layer"], row["expert"]) == (1, 3))
    assert parts["contribution"].sum() == pytest.approx(expected, abs=1e-9)


def test_a_contribution_is_counted_by_hand(trace, frame):
    (row, *_) = trace.view(
        "resonance-tokens", cells="0:2", by="language", target="de", paired=False, special=False
    ).to_pylist()
    text = frame[~frame["special"] & (frame["layer"] == 0)]
    lengths = text.groupby("prompt_id")["position"].nunique()
    uses = text[(text["expert"] == 2) & (text["token_id"] == row["token_id"])]
    share = uses.groupby("prompt_id").size().div(lengths, fill_value=0)
    language = frame.drop_duplicates("prompt_id").set_index("prompt_id")["language"]
    mean = share.groupby(language == "de").mean()
    assert row["contribution"] == pytest.approx(mean[True] - mean[False])
    assert row["target_uses"] == (uses["language"] == "de").sum()
    assert row["rest_uses"] == (uses["language"] != "de").sum()


def test_shares_stand_beside_every_measure(trace, frame):
    rows = trace.view("resonance", by="language", target="de", measure="weight", permutations=50).to_pylist()
    tokens = frame.groupby("prompt_id")["position"].nunique()
    layer = frame[(frame["layer"] == 1) & (frame["expert"] == 5)]
    share = layer.groupby("prompt_id").size().div(tokens, fill_value=0)
    german = frame[frame["language"] == "de"]["prompt_id"].unique()
    (row,) = [row for row in rows if (row["layer"], row["expert"]) == (1, 5)]
    assert row["target_share"] == pytest.approx(share[german].mean())
    assert row["rest_share"] == pytest.approx(share.drop(german).mean())


def test_a_prompt_map_is_that_of_its_events(trace, frame):
    table = trace.view("prompt-maps", prompts=["p000003", "p000004"]).to_pandas()
    assert set(table["prompt_id"]) == {"p000003", "p000004"}
    mine = frame[frame["prompt_id"] == "p000003"]
    counts = mine.groupby(["layer", "expert"]).size() / mine["position"].nunique()
    for row in table[table["prompt_id"] == "p000003"].itertuples():
        assert row.value == pytest.approx(counts.get((row.layer, row.expert), 0.0))
    with pytest.raises(StoreError, match="no prompt 'nobody'"):
        trace.view("prompt-maps", prompts="nobody")


def test_the_scan_ends_with_the_difference_of_the_whole_maps(trace, frame):
    steps = trace.view("prompt-scan", prompt_a="p000001", prompt_b="p000002", frames=7).to_pandas()
    assert sorted(steps["frame"].unique()) == [1, 2, 3, 4, 5, 6, 7]
    for number in (3, 7):
        for row in steps[steps["frame"] == number].itertuples():
            shares = []
            for prompt, passed in (("p000001", row.tokens_a), ("p000002", row.tokens_b)):
                seen = frame[(frame["prompt_id"] == prompt) & (frame["layer"] == row.layer)]
                seen = seen[seen["position"] < passed]
                shares.append(np.bincount(seen["expert"], minlength=8) / passed)
            assert row.difference == pytest.approx(shares[0] - shares[1])
    last = steps[steps["frame"] == 7].iloc[0]
    lengths = frame.groupby("prompt_id")["position"].nunique()
    assert (last["tokens_a"], last["tokens_b"]) == (lengths["p000001"], lengths["p000002"])


def test_classes_may_come_from_outside(trace, tmp_path):
    ids = trace.prompts()["prompt_id"].to_pylist()
    classes = {one: "refusal" if number < 6 else "answer" for number, one in enumerate(ids[:18])}
    file = tmp_path / "classes.csv"
    file.write_text("prompt_id,class\n" + "".join(f"{one},{name}\n" for one, name in classes.items()))
    params = {"by": "class", "target": "refusal", "permutations": 50}
    given = trace.view("resonance", classes=classes, **params)
    assert given.equals(trace.view("resonance", classes=str(file), **params), check_metadata=False)
    by_hand = trace.view(
        "resonance", by="prompt_id", target=ids[:6], rest=ids[6:18], paired=False, permutations=50
    )
    assert sorted(given["score"].to_pylist()) == pytest.approx(sorted(by_hand["score"].to_pylist()))


def test_a_condition_is_named_in_words(trace):
    condition = "SELECT prompt_id FROM prompts WHERE language = 'de'"
    table = trace.view("resonance", target=condition, permutations=50)
    assert notes_of(table)[0].startswith("prompts where language = 'de' against the rest")


def test_a_query_of_more_rows_than_prompts_is_refused_not_cut(trace, monkeypatch):
    from moescope.store.views.resonance import sides

    real = sides.run_query
    monkeypatch.setattr(sides, "run_query", lambda trace, query, **limits: real(trace, query, rows=3))
    with pytest.raises(StoreError, match="more rows than there are prompts"):
        sides.Grouping().sides(trace, "select prompt_id from prompts")


def test_an_overlap_takes_the_span(trace):
    params = {"by": "language", "target": "de", "other_target": "fr", "top": 4}
    (text,) = trace.view("resonance-overlap", special=False, last=5, **params).to_pylist()
    tops = []
    for target in ("de", "fr"):
        rows = trace.view(
            "resonance", by="language", target=target, ranking="target", top=4, last=5, special=False,
            permutations=50, stability=0,
        ).to_pylist()  # fmt: skip
        tops.append({(row["layer"], row["expert"]) for row in rows})
    assert text["shared"] == len(tops[0] & tops[1])
    assert text["jaccard"] == pytest.approx(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))

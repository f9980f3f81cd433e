"""Switch layers: expert use goes with the data set, and the unseen style stands beside the others."""

from moescope.sample_data.gallery.switch_encoder import SEEN, UNSEEN


def test_expert_use_tells_the_data_set_beyond_luck(made):
    rows = made("switch_encoder").view("tag-information", by="dataset", stream="encoder").to_pylist()
    best = max(rows, key=lambda row: row["information"])
    assert best["values"] == 4
    assert best["information"] > best["high"]
    assert best["q_value"] < 0.05


def test_the_unseen_style_is_in_the_trace_and_was_not_trained_on(made):
    trace = made("switch_encoder")
    seen = {}
    for row in trace.prompts().to_pylist():
        about = dict(row["tags"])
        seen[about["dataset"]] = about["seen"]
    assert seen == dict.fromkeys(SEEN, "True") | {UNSEEN: "False"}
    loads = trace.view("load", by="dataset", layer=0, stream="encoder").to_pylist()
    told = trace.manifest.settings["measured"]["distance_of_the_unseen_style"]
    for style in SEEN:
        shares = [[row["share"] for row in loads if row["dataset"] == name] for name in (style, UNSEEN)]
        assert abs(sum(abs(a - b) for a, b in zip(*shares, strict=True)) / 2 - told[style][0]) < 1e-3

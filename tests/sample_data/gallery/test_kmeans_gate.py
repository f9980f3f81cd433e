"""MixER: each family ends with one expert, and the gate of every step is in the trace."""

from moescope.sample_data.gallery.kmeans_gate import FAMILIES


def test_separated_contexts_end_with_one_expert_each(made):
    trace = made("kmeans_gate")
    rows = trace.prompts().to_pylist()
    last = max(int(dict(row["tags"])["step"]) for row in rows)
    experts = {}
    for family in FAMILIES:
        table = trace.view("load", where={"family": [family], "step": [str(last)]}).to_pylist()
        experts[family] = {row["expert"] for row in table if row["count"]}
    assert sorted(map(len, experts.values())) == [1, 1]
    assert experts[FAMILIES[0]] != experts[FAMILIES[1]]


def test_the_first_gate_is_not_yet_fitted_and_the_fitted_one_predicts_better(made):
    trace = made("kmeans_gate")
    errors = trace.manifest.settings["measured"]["error_of_the_experts_by_step"]
    assert errors[-1] < 0.6 * errors[0]
    prompts = trace.prompts().to_pylist()
    assert len(prompts) == len(errors) * len({dict(row["tags"])["environment"] for row in prompts})

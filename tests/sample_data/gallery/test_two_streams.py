"""T2MIR: the task stream tells the task, the token stream tells it less."""

from moescope.kernels.counting import mutual_information


def test_the_task_stream_knows_more_of_the_task_than_the_token_stream_and_than_luck(made):
    trace = made("two_streams")
    found = {
        stream: trace.view("tag-information", by="task", stream=stream).to_pylist()
        for stream in ("task", "decoder")
    }
    best = {stream: max(rows, key=lambda row: row["information"]) for stream, rows in found.items()}
    assert best["task"]["information"] > 2 * best["decoder"]["information"]
    assert best["task"]["information"] > best["task"]["high"]
    assert best["task"]["p_value"] < 0.05


def test_the_information_is_that_of_the_events_themselves(made):
    trace = made("two_streams")
    tasks = {row["prompt_id"]: dict(row["tags"])["task"] for row in trace.prompts().to_pylist()}
    names = sorted(set(tasks.values()))
    joint = [[0] * 4 for _ in names]
    for event in trace.events(layer=1, stream="task").to_pylist():
        joint[names.index(tasks[event["prompt_id"]])][event["experts"][0]] += 1
    view = trace.view("tag-information", by="task", stream="task", layer=1).to_pylist()[0]
    assert abs(mutual_information(joint) - view["information"]) < 1e-9

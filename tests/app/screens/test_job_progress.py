"""What the job panel says of a trace that is being made."""

from moescope.app.screens.library.jobs_panel import progress_words
from moescope.tracer.jobs.jobs import Status


def test_splitting_a_dense_model_is_counted_in_layers():
    status = Status(state="splitting", layers=3, total_layers=30)
    assert progress_words(status) == "splitting the layers into groups of neurons, 3 of 30 layers"


def test_tracing_after_a_split_speaks_of_prompts():
    status = Status(
        state="running", layers=30, total_layers=30, prompts=2, total_prompts=5, tokens_per_s=1200.0
    )
    assert progress_words(status) == "tracing, 2 of 5 prompts, 1,200 tokens/s"

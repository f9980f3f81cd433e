"""A pass over a router finds the events that a filter over everything finds, however the files are cut up."""

import numpy as np
import pytest

from moescope.store import open_trace
from moescope.store.write import parts
from moescope.store.write.synthetic import Synthetic, write_synthetic


@pytest.fixture(scope="module", params=[False, True], ids=["same k", "varying k"])
def trace(tmp_path_factory, request):
    """Row groups of tokens are smaller than those of events, as they are in a large trace."""
    folder = tmp_path_factory.mktemp("passes") / "trace"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "TOKENS_PER_GROUP", 50)
        patch.setattr(parts.prompt_chunks, "__defaults__", (300,))
        write_synthetic(
            str(folder), Synthetic(prompts=40, layers=3, part_tokens=500, varying_k=request.param)
        )
    return open_trace(folder)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    "where", [None, {"prompt_id": ["p000000", "p000009"]}, {"language": ["de"]}, {"prompt_id": []}]
)
def test_every_wanted_event_once(trace, special, where):
    tokens = {(row["prompt_id"], row["position"]): row for row in trace.tokens().to_pylist()}
    expected = []
    for row in trace.events(layer=1, where=where).to_pylist():
        token = tokens[row["prompt_id"], row["position"]]
        if special or not token["special"]:
            expected.append(
                (row["prompt_id"], row["position"], row["experts"], row["weights"], token["token"])
            )
    ids = trace.prompts()["prompt_id"].to_pylist()
    found = []
    for batch in trace.iter_router(
        1, columns=("experts", "weights"), token_columns=("token",), special=special, where=where
    ):
        offsets = batch.offsets
        if offsets is None:
            offsets = np.arange(len(batch.prompt_N) + 1) * batch.experts.shape[1]
        for row in range(len(batch.prompt_N)):
            slots = slice(offsets[row], offsets[row + 1])
            found.append(
                (
                    ids[batch.prompt_index[row]],
                    batch.position_N[row],
                    batch.experts.reshape(-1)[slots].tolist(),
                    batch.weights.reshape(-1)[slots].tolist(),
                    batch.tokens["token"][row],
                )
            )
    assert found == expected


@pytest.mark.parametrize("special", [True, False])
def test_contexts_come_from_few_row_groups(trace, special):
    best = trace.view("expert-contexts", layer=1, expert=3, special=special, limit=7)
    events = [row for row in trace.events(layer=1).to_pylist() if 3 in row["experts"]]
    if not special:
        events = [row for row in events if row["position"] > 0]
    weights = sorted((row["weights"][row["experts"].index(3)] for row in events), reverse=True)
    assert best["weight"].to_pylist() == weights[:7]

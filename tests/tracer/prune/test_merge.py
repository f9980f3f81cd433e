# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false
"""Merged checkpoints load in plain transformers as the model whose experts are frequency-weighted means."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import character_tokenizer, family, tiny_olmoe
from transformers import AutoModelForCausalLM

from moescope.kernels.likeness import merged
from moescope.tracer import find_routers
from moescope.tracer.prune import PruneError, mean_loss
from moescope.tracer.prune.checkpoint import merged_checkpoint
from moescope.tracer.prune.merge import merged_experts
from moescope.tracer.prune.merging import shuffled

PROBE = [1, *range(40, 64)]


def plan(model, left):
    """Clusters of neighbours of unequal size, and unequal frequencies."""
    clusters, frequency = {}, {}
    for spec in find_routers(model):
        label = np.minimum(np.arange(spec.num_experts), left - 1)
        clusters[spec.layer] = label.tolist()
        frequency[spec.layer] = (1.0 + np.arange(spec.num_experts)).tolist()
    return clusters, frequency


@pytest.mark.parametrize("name", ["olmoe", "mixtral", "gpt_oss"])
def test_what_transformers_load_is_the_mean_of_each_cluster(name, tmp_path: Path) -> None:
    model = tiny_olmoe() if name == "olmoe" else family(name)
    ids = torch.tensor([PROBE]) % model.config.get_text_config().vocab_size
    before = {key: value.clone() for key, value in model.state_dict().items()}
    experts, left = find_routers(model)[0].num_experts, max(2, find_routers(model)[0].top_k or 1)
    clusters, frequency = plan(model, left)
    merged_checkpoint(
        model, character_tokenizer(), clusters, frequency, tmp_path / "m", probe=ids[0].tolist(), card="x"
    )
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    assert {spec.num_experts for spec in find_routers(loaded)} == {left}
    assert left in json.loads((tmp_path / "m" / "config.json").read_text()).values()
    differing = 0
    for key, found in loaded.state_dict().items():
        own = before[key].numpy()
        if own.shape == tuple(found.shape):
            np.testing.assert_array_equal(found.numpy(), own)
            continue
        assert own.shape[0] == experts
        differing += 1
        wanted = [
            merged(own[at], np.asarray(frequency[0])[at])
            for label in range(left)
            for at in [np.flatnonzero(np.asarray(clusters[0]) == label)]
        ]
        np.testing.assert_allclose(found.numpy(), np.stack(wanted), rtol=1e-5, atol=1e-6)
    assert differing >= 2 * len(clusters)
    # The model in memory is whole again.
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert {spec.num_experts for spec in find_routers(model)} == {experts}


def test_clusters_of_one_change_nothing() -> None:
    model = tiny_olmoe()
    alone = {layer: list(range(8)) for layer in range(3)}
    even = {layer: [1.0] * 8 for layer in range(3)}
    base = mean_loss(model, [PROBE])
    with merged_experts(model, alone, even):
        np.testing.assert_allclose(mean_loss(model, [PROBE]), base, rtol=1e-6)


def test_groups_of_experts_are_kept_apart_and_what_can_not_be_merged_is_refused(tmp_path: Path) -> None:
    labels = {0: [0, 0, 1, 1, 2, 2, 3, 3]}
    for seed in range(5):
        drawn = np.array(shuffled(labels, np.random.default_rng(seed), groups=2)[0])
        assert not set(drawn[:4]) & set(drawn[4:])
        assert np.bincount(drawn).tolist() == [2, 2, 2, 2]
    model = tiny_olmoe()
    frequency = {layer: [1.0] * 8 for layer in range(3)}
    with pytest.raises(PruneError, match="a token uses 2 experts"):
        merged_checkpoint(
            model, character_tokenizer(), {layer: [0] * 8 for layer in range(3)}, frequency, tmp_path / "no",
            probe=PROBE,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())
    assert {spec.num_experts for spec in find_routers(model)} == {8}

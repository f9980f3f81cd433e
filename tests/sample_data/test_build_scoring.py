"""The evaluation of the miniature model against the model asked plainly."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="module")
def trained(made):
    return AutoModelForCausalLM.from_pretrained(made / "model", dtype=torch.float32)


def test_scores_equal_the_model_asked_one_text_at_a_time(build, made, trained):
    texts = build.measures.Texts.load(made, "held_out").sample(8, 0)
    scores = build.scoring.score(trained, texts.ids, batch_tokens=100)
    for i, ids in enumerate(texts.ids):
        row = torch.from_numpy(ids.astype(np.int64))[None]
        output = trained(row, labels=row, output_router_logits=False)
        assert scores.nats[i] / scores.tokens[i] == pytest.approx(output.loss.item(), rel=1e-4)
        logits = trained.model(row, output_router_logits=True).router_logits
        for layer, layer_logits in enumerate(logits):
            p = layer_logits.softmax(-1)[1:]
            np.testing.assert_allclose(scores.probability[i, layer], p.mean(0).detach(), atol=1e-5)
            assert scores.chosen[i, layer].sum() == 2 * scores.tokens[i]


def test_experts_that_are_off_are_never_chosen_and_come_back(build, made, trained):
    texts = build.measures.Texts.load(made, "held_out").sample(5, 0)
    before = build.scoring.score(trained, texts.ids)
    with build.scoring.switched_off(trained, [(0, 1), (0, 3), (1, 2)]):
        off = build.scoring.score(trained, texts.ids)
    assert off.chosen[:, 0, [1, 3]].sum() == off.chosen[:, 1, 2].sum() == 0
    assert (off.chosen.sum(axis=2) == before.chosen.sum(axis=2)).all()
    assert (build.scoring.score(trained, texts.ids).nats == before.nats).all()


def test_most_specific_experts_by_hand(build):
    shares = {"ja": np.array([[0.9, 0.1], [0.5, 0.5]]), "en": np.array([[0.2, 0.8], [0.4, 0.6]])}
    assert build.measures.most_specific(shares, "ja", 2) == [(0, 0), (1, 0)]
    assert build.measures.most_specific(shares, "en", 1) == [(0, 1)]


def test_evaluation_is_complete(made):
    result = json.loads((made / "evaluation.json").read_text())
    for part in ("bits_per_byte", "xz", "untrained", "divergence_from_english"):
        assert list(result[part]) == ["en", "ru", "ja"]
    assert all(result["bits_per_byte"][who] < result["untrained"][who] for who in ("en", "ru", "ja"))
    assert result["divergence_from_english"]["en"] == [0.0, 0.0]
    np.testing.assert_allclose(np.sum(result["load"], axis=1), 1, atol=1e-3)

"""AdvMoE: no image leaves its pathway without a perturbation, and more do the stronger it is."""

import pytest

from moescope.sample_data.gallery.pathways import KINDS, LAYERS, STRENGTHS


@pytest.mark.parametrize("kind", KINDS)
def test_flips_are_none_without_a_perturbation_and_rise_with_its_strength(made, kind):
    trace = made("pathways")
    path = {}
    for layer in range(LAYERS):
        for event in trace.events(layer=layer, stream=kind).to_pylist():
            image, eps = event["prompt_id"].split(", eps ")
            path[layer, image, float(eps)] = event["experts"]
    images = sorted({image for _, image, _ in path})
    rates = [
        sum(path[layer, n, eps] != path[layer, n, 0.0] for layer in range(LAYERS) for n in images)
        / (LAYERS * len(images))
        for eps in STRENGTHS
    ]
    assert rates[0] == 0
    assert rates[-1] > 0
    assert rates[-1] >= max(rates[:3])
    told = trace.manifest.settings["measured"]["flip_rate"][kind]
    assert [row["point"] for row in told] == pytest.approx(rates, abs=1e-4)

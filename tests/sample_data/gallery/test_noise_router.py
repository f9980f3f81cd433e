"""MoDE: the noise level alone decides, so a level's experts can be cached."""

import torch

from moescope.sample_data.gallery.noise_router import Denoiser


def test_all_points_of_a_noise_level_share_their_experts(made):
    trace = made("noise_router")
    for spec in trace.routers:
        by_level = {}
        for event in trace.events(layer=spec.layer).to_pylist():
            by_level.setdefault(event["prompt_id"], set()).add(tuple(event["experts"]))
        assert {len(choices) for choices in by_level.values()} == {1}
    assert len({tuple(event["experts"]) for event in trace.events(layer=0).to_pylist()}) > 1


def test_cached_routing_is_live_routing():
    torch.manual_seed(3)
    model, points = Denoiser(), torch.randn(9, 2)
    with torch.no_grad():
        for level in (0.05, 0.4, 2.0):
            live = model(points, torch.full((9,), level))
            torch.testing.assert_close(model(points, torch.full((9,), level), cached=model.plan(level)), live)
            other = model(points, torch.full((9,), level), cached=model.plan(level * 20))
            assert not torch.allclose(other, live, atol=1e-3)

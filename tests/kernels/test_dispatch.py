"""What goes from device to device: counted slot by slot by hand."""

import numpy as np
import pytest

from moescope.kernels.dispatch import busiest_over_mean, dispatch_matrix, local_share, micro_batch_skew


@pytest.mark.parametrize("per", ["slot", "token"])
def test_against_a_loop(per):
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(6)[:3] for _ in range(40)])
    ids[::5, 2] = -1
    home, place = rng.integers(0, 3, 40), np.array([0, 0, 1, 1, 2, 2])
    expected = np.zeros((3, 3), int)
    for row, at in zip(ids, home, strict=True):
        targets = [place[e] for e in row if e >= 0]
        for target in targets if per == "slot" else set(targets):
            expected[at, target] += 1
    found = dispatch_matrix(ids, home, place, 3, per)
    np.testing.assert_array_equal(found, expected)
    assert local_share(found) == pytest.approx(np.trace(expected) / expected.sum())


def test_wrong_devices_are_refused():
    with pytest.raises(ValueError, match="home_of_token must lie in"):
        dispatch_matrix([[0]], [2], [0, 1], 2)
    with pytest.raises(ValueError, match="per must be"):
        dispatch_matrix([[0]], [0], [0, 1], 2, "expert")  # pyright: ignore[reportArgumentType]


def test_skew():
    batch = [0.2, 0.1, 0.15, 0.05, 0.125, 0.125, 0.15, 0.1]
    assert micro_batch_skew(batch) == pytest.approx(0.041458, abs=1e-6)
    np.testing.assert_allclose(micro_batch_skew([[3, 1], [2, 2], [0, 0]]), [0.25, 0, 0])
    assert busiest_over_mean([8, 4, 2, 2]) == 2.0

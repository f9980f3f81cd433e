"""Compiled twins give what the plain versions give, and are only used when they are worth it."""

import math
import threading

import numpy as np
import pytest

from moescope.kernels import compiled as compiled_module
from moescope.kernels.alignment import _log_sums
from moescope.kernels.alignment.pairwise import pairwise_divergence
from moescope.kernels.compiled import compiled, compiled_if_worth_it, expect
from moescope.kernels.consistency import hit_curve, hit_curves, segment_hit_curve, window_uses_by_group
from moescope.kernels.counting import co_activation, count_experts, transitions

rng = np.random.default_rng(0)
IDS = [
    np.argsort(rng.random((300, 12)), 1)[:, :4].astype(np.uint8),
    np.where(rng.random((300, 3)) < 0.2, -1, np.argsort(rng.random((300, 12)), 1)[:, :3]).astype(np.int16),
    np.zeros((0, 2), np.int32),
    np.argsort(rng.random((100, 12)), 1)[:, :2].astype(np.uint64),
    np.argsort(rng.random((500, 12)), 1)[:, :8].astype(np.int64)[::2, ::-2],
]


def results_of(ids):
    yield count_experts(ids, 12)
    yield co_activation(ids, 12)
    yield transitions(ids, ids[::-1], 12, 12)
    for policy in ("lru", "lfu", "belady"):
        yield hit_curve(ids, 12, policy).hits
    yield segment_hit_curve(ids, 12, 5).hits
    starts = np.unique([0, len(ids) // 3, len(ids) // 2, len(ids)])
    yield hit_curves(ids, 12, starts, policy="lru").hits
    yield hit_curves(ids, 12, starts, policy="segment", m=4).hits
    for m in (1, 7, 60):
        yield window_uses_by_group(ids, 12, m, starts, np.arange(len(starts) - 1) % 2, 2)


IDS[0].flags.writeable = False  # as Arrow hands them over


@pytest.mark.parametrize("ids", IDS, ids=lambda ids: str(ids.dtype))
def test_twins_agree_with_the_plain_versions(ids, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(compiled_module, "WORTH_COMPILING", float("inf"))
    plain = list(results_of(ids))
    monkeypatch.setattr(compiled_module, "WORTH_COMPILING", 0)
    for one, other in zip(plain, results_of(ids), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_repeated_expert_counts_once_in_both(monkeypatch):
    pytest.importorskip("numba")
    ids = np.array([[1, 1, 0], [2, -1, 2]])
    expected = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    for worth in (0, float("inf")):
        monkeypatch.setattr(compiled_module, "WORTH_COMPILING", worth)
        assert co_activation(ids, 3).tolist() == expected


def test_small_work_adds_up_until_a_compiler_is_worth_it(monkeypatch):
    monkeypatch.setattr(compiled_module, "compiled", lambda loop: loop)

    def loop():
        return None

    assert compiled_if_worth_it(loop, 0.3) is None
    assert compiled_if_worth_it(loop, 0.3) is loop


def test_work_that_is_announced_is_compiled_before_it_comes(monkeypatch):
    asked, done = [], threading.Event()

    def loop():
        done.set()

    monkeypatch.setattr(compiled_module, "compiled", lambda loop: asked.append(loop) or loop)
    expect(loop, 0.3, ())
    assert not asked
    expect(loop, 0.3, ())
    assert done.wait(5)
    expect(loop, 9.0, ())
    assert asked == [loop]
    assert compiled_if_worth_it(loop, 0.0) is loop


def test_without_numba_the_plain_version_runs(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "numba", None)
    assert compiled(lambda: None) is None


def test_logarithms_of_the_twin_are_those_of_numpy():
    pytest.importorskip("numba")
    p = np.concatenate(
        [
            rng.dirichlet(np.full(37, 0.05), (40, 6)),
            10.0 ** rng.uniform(-320, 0, (40, 6, 37)),  # subnormal ones too
            1 + rng.uniform(-1e-9, 1e-9, (40, 6, 37)),
        ]
    )
    p[0, :2], p[1, 0, 3] = 0, 0
    one, other = np.triu_indices(6)
    found = np.empty((len(p), len(one)))
    fast = compiled(_log_sums._loop, any_order=True)
    assert fast is not None
    fast(found, p, one, other)
    np.testing.assert_allclose(found, _log_sums.plain_pair_log_sums(p, one, other), rtol=1e-13, atol=1e-14)
    s = p[:, one] + p[:, other]
    exact = [[math.fsum(x * math.log(x) for x in row if x) for row in unit] for unit in s.tolist()]
    np.testing.assert_allclose(found, exact, rtol=1e-13, atol=1e-14)


def test_divergences_of_pairs_are_the_same_with_and_without_a_compiler(monkeypatch):
    pytest.importorskip("numba")
    q = rng.dirichlet(np.full(16, 0.1), (30, 5)).astype(np.float32)
    q[3], q[4, 1] = 1 / 16, q[4, 0]
    one, other = np.triu_indices(5, 1)
    found = {}
    for worth in (0, float("inf")):
        monkeypatch.setattr(compiled_module, "WORTH_COMPILING", worth)
        found[worth] = pairwise_divergence(q, one, other)
    np.testing.assert_allclose(found[0], found[float("inf")], rtol=1e-9, atol=1e-15)
    assert (found[0][3] == 0).all()
    assert found[0][4, 0] == 0

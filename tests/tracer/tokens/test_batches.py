"""Batches: every prompt once, within the budget, and a map back to real tokens that padding never enters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.tracer.tokens.batches import collate, plan_batches, shuffled
from moescope.tracer.tokens.encode import Encoded

lengths = st.lists(st.integers(1, 50), max_size=60).map(lambda values: np.asarray(values, np.int64))


def sequence(length, first=1):
    flags = np.zeros(length, bool)
    return Encoded(np.arange(first, first + length, dtype=np.int32), flags, flags)


@settings(deadline=None)
@given(
    lengths=lengths, budget=st.integers(1, 200), size=st.none() | st.integers(1, 5), extra=st.integers(0, 9)
)
def test_every_prompt_runs_once_and_within_the_budget(lengths, budget, size, extra):
    plan = plan_batches(lengths, budget, batch_size=size, extra=extra)
    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    for batch in plan:
        assert (np.diff(batch) > 0).all()
        assert len(batch) == 1 or len(batch) * (lengths[batch].max() + extra) <= budget
        assert size is None or len(batch) <= size


def test_prompts_of_similar_length_run_together():
    lengths = np.asarray([1, 100] * 50)
    padded = sum(len(batch) * lengths[batch].max() for batch in plan_batches(lengths, 400))
    assert padded <= 1.1 * lengths.sum()


def test_a_resumed_run_forms_the_same_batches_whatever_is_left():
    lengths = np.random.default_rng(0).integers(1, 80, 500)
    plan = plan_batches(lengths, 512)
    assert [batch.tolist() for batch in plan] == [
        batch.tolist() for batch in plan_batches(lengths.copy(), 512)
    ]


def test_early_batches_hold_early_prompts():
    lengths = np.random.default_rng(0).integers(1, 80, 5000)
    plan = plan_batches(lengths, 512)
    half = np.concatenate(plan[: len(plan) // 2])
    assert half.max() < 3200


def test_what_is_committed_first_is_a_fair_sample():
    # Two languages one after the other, the second with longer texts: by chance a half of the batches holds between
    # 40 and 60 % of each (the standard deviation is below 2.5 %).
    rng = np.random.default_rng(0)
    lengths = np.concatenate([rng.integers(1, 40, 2500), rng.integers(40, 80, 2500)])
    plan = shuffled(plan_batches(lengths, 512))
    assert sorted(i for batch in plan for i in batch) == list(range(5000))
    half = np.concatenate(plan[: len(plan) // 2])
    for language in (half < 2500, half >= 2500):
        assert 0.4 < language.sum() / 2500 < 0.6
    assert [batch.tolist() for batch in plan] == [b.tolist() for b in shuffled(plan_batches(lengths, 512))]


@pytest.mark.parametrize("side", ["left", "right"])
@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_kept_places_are_the_real_tokens_in_order(side, lengths):
    sequences = [sequence(length, 100 * i + 1) for i, length in enumerate(lengths)]
    batch = collate(sequences, pad_id=0, side=side)
    flat = batch.input_ids_BS.reshape(-1).numpy()
    np.testing.assert_array_equal(flat[batch.keep_T.numpy()], np.concatenate([s.ids for s in sequences]))
    np.testing.assert_array_equal(batch.sequence_T, np.repeat(np.arange(len(lengths)), lengths))
    np.testing.assert_array_equal(batch.position_T, np.concatenate([np.arange(n) for n in lengths]))
    np.testing.assert_array_equal(batch.mask_BS.numpy(), (batch.input_ids_BS.numpy() > 0).astype(int))
    edge = batch.mask_BS[:, 0 if side == "right" else -1]
    assert bool((edge == 1).all())

"""Batch order: a pure function of (seed, step), every question once an epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.training.order import BatchOrder


@given(
    n=st.integers(1, 40),
    batch=st.integers(1, 12),
    bucket=st.integers(1, 6),
    seed=st.integers(0, 5),
    start=st.integers(0, 30),
)
def test_any_step_is_the_same_whichever_steps_were_asked_before(n, batch, bucket, seed, start):
    lengths = np.arange(n) * 7 % 11
    unbroken = BatchOrder(lengths, batch, seed, bucket)
    whole = [unbroken.batch(step).tolist() for step in range(start + 8)]
    resumed = BatchOrder(lengths, batch, seed, bucket)
    assert [resumed.batch(step).tolist() for step in range(start, start + 8)] == whole[start:]
    assert all(len(items) == batch for items in whole)


@given(n=st.integers(1, 30), batch=st.integers(1, 8), bucket=st.integers(1, 5), windows=st.integers(1, 6))
def test_every_item_comes_equally_often(n, batch, bucket, windows):
    order = BatchOrder(np.arange(n) % 3, batch, 3, bucket)
    seen = Counter(i for step in range(windows * bucket) for i in order.batch(step).tolist())
    counts = [seen[i] for i in range(n)]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == windows * bucket * batch


def test_a_window_holds_the_same_items_whatever_their_lengths():
    short, long = (BatchOrder(lengths, 4, 0, 3) for lengths in (np.zeros(50, int), np.arange(50)[::-1]))
    for first in (0, 3, 30):
        windows = [sorted(np.concatenate([o.batch(first + i) for i in range(3)])) for o in (short, long)]
        assert windows[0] == windows[1]


def test_buckets_put_like_lengths_together():
    lengths = np.random.default_rng(0).integers(1, 100, 64)
    spread = {
        bucket: np.mean([np.ptp(lengths[BatchOrder(lengths, 8, 0, bucket).batch(step)]) for step in range(8)])
        for bucket in (1, 8)
    }
    assert spread[8] < spread[1] / 3
    order = BatchOrder(lengths, 8, 0, 8)
    middles = [lengths[order.batch(step)].mean() for step in range(8)]
    assert middles != sorted(middles)  # short batches do not all come first


def test_seeds_and_epochs_differ():
    a, b = BatchOrder(np.zeros(100, int), 100, 0), BatchOrder(np.zeros(100, int), 100, 1)
    assert a.batch(0).tolist() != b.batch(0).tolist()
    assert a.batch(0).tolist() != a.batch(1).tolist()


def test_no_items_is_our_mistake():
    with pytest.raises(AssertionError):
        BatchOrder([], 4, 0)

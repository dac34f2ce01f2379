"""Groups of rows of like length."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.models.buckets import CPU_MOST, CPU_PASS, length_buckets


def padded(lengths: np.ndarray, buckets: list[np.ndarray]) -> int:
    return sum(int(lengths[b].max()) * len(b) for b in buckets)


def test_equal_rows_stay_together():
    assert [b.tolist() for b in length_buckets(np.full(20, 50), "cpu")] == [list(range(20))]


def test_one_long_row_is_read_apart():
    lengths = np.array([10] * 10 + [90] + [10] * 10)
    first, rest = length_buckets(lengths, "cpu")
    assert first.tolist() == [10]
    assert sorted(rest.tolist()) == [i for i in range(21) if i != 10]


def test_a_pass_is_not_started_to_save_less_than_it_costs():
    lengths = np.array([50] + [10] * 3)  # a cut saves 120 tokens
    assert 120 < CPU_PASS < 160
    assert len(length_buckets(lengths, "cpu")) == 1
    assert len(length_buckets(np.array([50] + [10] * 4), "cpu")) == 2


def test_a_group_that_writes_pays_for_the_start_of_each_pass():
    lengths = np.array([50] + [10] * 4)  # a cut saves 160 tokens
    assert len(length_buckets(lengths, "cpu", passes=2)) == 1
    assert len(length_buckets(np.repeat(lengths, 2), "cpu", passes=2)) == 2


def test_passes_hold_the_tokens_that_are_asked_for():
    lengths = np.arange(10, 60)
    buckets = length_buckets(lengths, "cuda", most=300)
    assert sorted(np.concatenate(buckets).tolist()) == list(range(50))
    assert (
        max(len(b) * lengths[b].max() for b in buckets) <= 350
    )  # even shares of a group, its longest row's padding on
    assert [len(b) for b in length_buckets(np.array([90, 80]), "cpu", most=20)] == [1, 1]


def test_big_groups_are_cut_evenly_on_a_cpu_alone():
    lengths = np.full(1000, 100)
    parts = length_buckets(lengths, "cpu")
    assert {len(p) for p in parts} == {76, 77}
    assert max(len(p) for p in parts) * 100 <= CPU_MOST
    assert len(length_buckets(lengths, "cuda")) == 1


@given(st.lists(st.integers(1, 500), min_size=1, max_size=200))
def test_every_row_once_and_never_more_padding(lengths):
    lengths = np.array(lengths)
    buckets = length_buckets(lengths, "cpu")
    assert sorted(np.concatenate(buckets).tolist()) == list(range(len(lengths)))
    assert padded(lengths, buckets) <= int(lengths.max()) * len(lengths)
    assert all(int(lengths[b].max()) * len(b) <= CPU_MOST or len(b) == 1 for b in buckets)

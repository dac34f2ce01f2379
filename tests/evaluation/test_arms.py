"""The passages of the control arms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.core.errors import DataError
from rag_exp.evaluation.arms import oracle_pairs, oracle_result, random_pairs, random_result


def test_oracle_reads_gold_alone():
    found = oracle_result([[7], [], [3, 9, 3, 1]], 2)
    assert found.ids_QK.tolist() == [[7, -1], [-1, -1], [3, 9]]
    assert found.mask_QK.tolist() == [[True, False], [False, False], [True, True]]
    assert found.scores_QK[2].tolist() == [0.0, 0.0]
    assert oracle_result([[7], [2]], 4).ids_QK.tolist() == [[7], [2]]  # no wider than it needs


def test_oracle_reads_every_hop_before_the_second_part_of_any():
    parts, of = [[10, 11, 12, 20]], [[0, 0, 0, 1]]
    assert oracle_result(parts, 2).ids_QK.tolist() == [[10, 11]]
    assert oracle_result(parts, 2, of).ids_QK.tolist() == [[10, 20]]


def test_oracle_without_any_gold_is_an_error():
    with pytest.raises(DataError, match="no question has a gold passage"):
        oracle_result([[], []], 3)


@given(k=st.integers(1, 6), size=st.integers(6, 200), seed=st.integers(0, 3))
def test_random_is_a_pure_function_of_seed_and_question(k, size, seed):
    ids = [f"q{i}" for i in range(5)]
    found = random_result(ids, k, size, seed)
    assert found.mask_QK.all()
    assert found.ids_QK.max() < size
    assert found.ids_QK.min() >= 0
    assert all(len(set(row)) == k for row in found.ids_QK.tolist())
    back = random_result(ids[::-1], k, size, seed)
    assert np.array_equal(back.ids_QK[::-1], found.ids_QK)


def test_random_is_even_and_seeded():
    ids = [f"q{i}" for i in range(4000)]
    counts = np.bincount(random_result(ids, 2, 10, 0).ids_QK.ravel(), minlength=10)
    assert counts.sum() == 8000
    assert np.abs(counts - 800).max() < 5 * np.sqrt(800)
    assert not np.array_equal(random_result(ids[:9], 2, 10, 0).ids_QK, random_result(ids[:9], 2, 10, 1).ids_QK)


def test_random_wants_a_corpus_that_is_large_enough():
    with pytest.raises(DataError, match="corpus of 3"):
        random_result(["q"], 4, 3, 0)


def test_oracle_pairs_are_the_first_and_the_last_hop():
    pairs = oracle_pairs([[9, 4], [7], [], [8, 3, 2, 5]], [[0, 1], [0], [], [0, 0, 1, 2]])
    assert pairs.tolist() == [[[9, 4]], [[-1, -1]], [[-1, -1]], [[8, 5]]]
    with pytest.raises(DataError, match="two gold passages"):
        oracle_pairs([[1], []], [[0], []])


def test_random_pairs_are_different_passages():
    pairs = random_pairs(["a", "b"], 3, 50, 0)
    assert pairs.shape == (2, 3, 2)
    assert all(len(set(row.reshape(-1).tolist())) == 6 for row in pairs)
    assert (random_pairs(["b"], 3, 50, 0)[0] == pairs[1]).all()

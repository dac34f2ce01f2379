from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.core.errors import DataError
from rag_exp.retrieval.results import SearchResult, merge


def of(ids: list[list[int]], scores: list[list[float]], k: int) -> SearchResult:
    return SearchResult.of(np.array(ids), np.array(scores), k)


def test_sorts_by_score_then_id():
    found = of([[5, 3, 9, 1]], [[1.0, 2.0, 2.0, 1.0]], 4)
    assert found.ids_QK.tolist() == [[3, 9, 1, 5]]
    assert found.scores_QK.tolist() == [[2.0, 2.0, 1.0, 1.0]]
    assert found.mask_QK.all()
    assert (found.ids_QK.dtype, found.scores_QK.dtype, found.mask_QK.dtype) == (np.int64, np.float32, np.bool_)


def test_cuts_ties_at_rank_k_by_lowest_id():
    assert of([[7, 2, 4]], [[0.0, 0.0, 0.0]], 2).ids_QK.tolist() == [[2, 4]]


def test_minus_one_never_leaks_and_padding_comes_last():
    found = of([[-1, 8, -1, 2]], [[99.0, 1.0, np.nan, 3.0]], 5)
    assert found.ids_QK.tolist() == [[2, 8, -1, -1, -1]]
    assert found.mask_QK.tolist() == [[True, True, False, False, False]]
    assert found.scores_QK[0, :2].tolist() == [3.0, 1.0]
    assert np.isneginf(found.scores_QK[0, 2:]).all()


def test_any_negative_id_is_nothing():
    assert of([[-7, 1]], [[5.0, 1.0]], 2).ids_QK.tolist() == [[1, -1]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_scores_that_are_not_finite(bad: float):
    with pytest.raises(ValueError, match="query 1"):
        of([[1, 2], [3, 4]], [[1.0, 0.0], [bad, 0.0]], 2)


def test_refuses_a_passage_that_occurs_twice():
    with pytest.raises(ValueError, match="twice"):
        of([[4, 4]], [[1.0, 0.5]], 2)


@pytest.mark.parametrize("k", [0, -1])
def test_refuses_k_below_one(k: int):
    with pytest.raises(ValueError, match="at least 1"):
        of([[1]], [[1.0]], k)


def test_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match="shapes"):
        SearchResult.of(np.zeros((1, 2), int), np.zeros((1, 3)), 1)


def test_arrays_are_read_only_and_own_their_memory():
    ids = np.array([[3, 1]])
    found = SearchResult.of(ids, np.array([[2.0, 1.0]], np.float32), 2)
    ids[0, 0] = 77
    assert found.ids_QK[0, 0] == 3
    with pytest.raises(ValueError, match="read-only"):
        found.ids_QK[0, 0] = 5


def test_float64_scores_that_are_equal_in_float32_tie():
    assert of([[9, 2]], [[1.0 + 1e-12, 1.0]], 2).ids_QK.tolist() == [[2, 9]]


def test_empty():
    found = SearchResult.empty(2, 3)
    assert found.ids_QK.tolist() == [[-1] * 3] * 2
    assert not found.mask_QK.any()
    assert len(SearchResult.empty(0, 3)) == 0


def test_first_and_of_queries():
    found = of([[1, 2, 3], [4, 5, 6]], [[3, 2, 1], [3, 2, 1]], 3)
    assert found.first(2).ids_QK.tolist() == [[1, 2], [4, 5]]
    assert found.of_queries(np.array([1])).ids_QK.tolist() == [[4, 5, 6]]
    with pytest.raises(ValueError, match="width 3"):
        found.first(4)


def test_save_and_load(tmp_path: Path):
    found = of([[1, -1], [4, 5]], [[3, 0], [3, 3]], 2)
    found.save(tmp_path / "a")
    again = SearchResult.load(tmp_path / "a")
    for name in ("ids_QK", "scores_QK", "mask_QK"):
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name))


def test_load_says_where_nothing_is(tmp_path: Path):
    with pytest.raises(DataError, match="no readable search result"):
        SearchResult.load(tmp_path)
    np.save(tmp_path / "ids.npy", np.array([[1, 1]]))
    np.save(tmp_path / "scores.npy", np.array([[1.0, 0.5]]))
    with pytest.raises(DataError, match="twice"):
        SearchResult.load(tmp_path)


def test_merge_refuses_what_would_not_be_exact():
    narrow = of([[1, 2]], [[2, 1]], 2)
    with pytest.raises(ValueError, match="width 2 cannot give the best 3"):
        merge([narrow], 3)
    with pytest.raises(ValueError, match="twice"):
        merge([narrow, narrow], 2)
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([], 2)


@given(
    scores=st.lists(st.lists(st.integers(-3, 3), min_size=0, max_size=30), min_size=1, max_size=3).filter(
        lambda rows: len({len(r) for r in rows}) == 1
    ),
    k=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_merge_of_parts_is_the_result_of_the_whole(scores: list[list[int]], k: int, cuts: list[int]):
    table = np.array(scores, np.float32).reshape(len(scores), -1)
    ids = np.tile(np.arange(table.shape[1]), (len(table), 1))
    edges = [0, *sorted(min(c, table.shape[1]) for c in cuts), table.shape[1]]
    parts = [SearchResult.of(ids[:, a:b], table[:, a:b], k) for a, b in itertools.pairwise(edges)]
    merged = merge(parts, k)
    for q, row in enumerate(table):
        best = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
        assert merged.ids_QK[q].tolist() == best + [-1] * (k - len(best))
        assert merged.scores_QK[q, : len(best)].tolist() == [row[i] for i in best]


def test_the_log_partition_is_kept_with_its_queries(tmp_path: Path):
    found = SearchResult.of(np.array([[1, 2], [4, 3]]), np.array([[2.0, 1.0], [5.0, 0.0]]), 2, np.array([2.5, 6.0]))
    assert found.first(1).log_partition_Q.tolist() == [2.5, 6.0]
    assert found.of_queries(np.array([1])).log_partition_Q.tolist() == [6.0]
    found.save(tmp_path)
    assert SearchResult.load(tmp_path).log_partition_Q.tolist() == [2.5, 6.0]
    np.save(tmp_path / "log_partition.npy", np.zeros(3))
    with pytest.raises(DataError, match="log-partition of 2 queries"):
        SearchResult.load(tmp_path)


def test_log_partitions_add_up_where_every_part_has_one():
    parts = [SearchResult.of(np.array([[i]]), np.zeros((1, 1)), 1, np.array([np.log(i)])) for i in (1, 2, 5)]
    assert merge(parts, 1).log_partition_Q[0] == pytest.approx(np.log(8))
    assert merge([*parts, of([[7]], [[0.0]], 1)], 1).log_partition_Q is None

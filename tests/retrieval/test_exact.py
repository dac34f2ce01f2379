from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from rag_exp.core.errors import DataError
from rag_exp.retrieval import on_device
from rag_exp.retrieval.exact import as_vectors, exact_topk, exact_topk_nested, rechunk, top_of_scores

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()


def brute(queries: np.ndarray, vectors: np.ndarray, k: int) -> list[list[int]]:
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    best = [sorted(range(len(row)), key=lambda i, row=row: (-row[i], i))[:k] for row in scores]
    return [ids + [-1] * (k - len(ids)) for ids in best]


def split(vectors: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    edges = [0, *sorted(min(c, len(vectors)) for c in cuts), len(vectors)]
    return [vectors[a:b] for a, b in itertools.pairwise(edges)]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(0, 60),
    queries=st.integers(1, 30),  # faiss takes another path from 20 queries on
    dims=st.integers(1, 5),
    k=st.integers(1, 70),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    device=st.sampled_from([None, "cpu"]),
)
def test_equals_brute_force_with_real_ties_whatever_the_blocks(
    seed: int, rows: int, queries: int, dims: int, k: int, cuts: list[int], device: str | None
):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, (rows, dims)).astype(np.float32)
    asked = rng.integers(-1, 2, (queries, dims)).astype(np.float32)
    found = exact_topk(asked, split(vectors, cuts), k, device)
    assert found.ids_QK.tolist() == brute(asked, vectors, k)


def test_ties_that_straddle_rank_k_take_the_lowest_ids_also_for_large_k():
    vectors = np.ones((1000, 4), np.float32)  # k >= 100 makes faiss select by reservoir, in no order of its own
    for k in (1, 7, 150):
        assert exact_topk(np.ones((25, 4)), [vectors[:300], vectors[300:]], k).ids_QK[3].tolist() == list(range(k))


def test_a_tie_with_the_running_last_does_not_push_it_out():
    vectors = np.array([[1], [2], [1], [1]], np.float32)
    assert exact_topk(np.ones((1, 1)), [vectors[:2], vectors[2:]], 2).ids_QK.tolist() == [[1, 0]]


@pytest.mark.parametrize("device", [None, *DEVICES])
def test_real_values_agree_with_brute_force(monkeypatch: pytest.MonkeyPatch, device: str | None):
    monkeypatch.setattr(on_device, "_SCORES", 10_000)  # some queries at a time
    rng = np.random.default_rng(0)
    vectors, queries = rng.standard_normal((3000, 32)), rng.standard_normal((50, 32))
    found = exact_topk(queries, split(vectors, [700, 701, 2000]), 20, device)
    expected = queries @ vectors.T
    top = -np.sort(-expected, axis=1)[:, :20]
    np.testing.assert_allclose(found.scores_QK, top, rtol=1e-5, atol=1e-5)
    assert (found.ids_QK == np.array(brute(queries, vectors, 20))).mean() > 0.999


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(0, 60),
    queries=st.integers(1, 30),
    dims=st.integers(1, 5),
    k=st.integers(1, 70),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    sizes=st.lists(st.integers(0, 80), max_size=6),
    device=st.sampled_from([None, "cpu"]),
)
def test_nested_equals_brute_force_on_each_prefix_with_real_ties(
    seed: int, rows: int, queries: int, dims: int, k: int, cuts: list[int], sizes: list[int], device: str | None
):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, (rows, dims)).astype(np.float32)
    asked = rng.integers(-1, 2, (queries, dims)).astype(np.float32)
    found = exact_topk_nested(asked, split(vectors, cuts), k, sizes, log_partition=True, temperature=0.5, device=device)
    assert list(found) == sorted(set(sizes))
    scores = 2 * asked.astype(np.float64) @ vectors.T.astype(np.float64)
    for size, result in found.items():
        assert result.ids_QK.tolist() == brute(asked, vectors[:size], k)
        np.testing.assert_allclose(result.log_partition_Q, logsumexp(scores[:, :size], axis=1), rtol=1e-6, atol=1e-6)


def test_nested_on_real_values_equals_a_search_of_each_prefix():
    rng = np.random.default_rng(3)
    vectors, queries = rng.standard_normal((9000, 24), np.float32), rng.standard_normal((300, 24), np.float32)
    found = exact_topk_nested(queries, split(vectors, [4100]), 10, [9000, 500, 5, 500, 10**9], log_partition=True)
    assert list(found) == [5, 500, 9000, 10**9]
    for size, result in found.items():
        alone = exact_topk(queries, [vectors[:size]], 10)
        assert alone.log_partition_Q is None
        np.testing.assert_allclose(result.scores_QK, alone.scores_QK, rtol=1e-5)
        assert (result.ids_QK == alone.ids_QK).mean() > 0.999
        exact = logsumexp(queries.astype(np.float64) @ vectors[:size].T, axis=1)
        np.testing.assert_allclose(result.log_partition_Q, exact, rtol=1e-6, atol=1e-6)


def test_nested_reads_no_further_than_the_largest_size():
    def blocks():
        yield np.ones((4, 2))
        raise AssertionError("read beyond the largest size")

    assert exact_topk_nested(np.ones((1, 2)), blocks(), 3, [4, 2])[2].ids_QK.tolist() == [[0, 1, -1]]
    assert exact_topk_nested(np.ones((1, 2)), blocks(), 3, []) == {}


def test_nested_over_nothing():
    (found,) = exact_topk_nested(np.ones((2, 3)), [], 2, [7], log_partition=True).values()
    assert not found.mask_QK.any()
    assert np.isneginf(found.log_partition_Q).all()


def test_nested_refuses_what_has_no_meaning():
    with pytest.raises(ValueError, match="-1 passages"):
        exact_topk_nested(np.ones((1, 2)), [np.ones((3, 2))], 1, [-1, 2])
    with pytest.raises(ValueError, match="temperature"):
        exact_topk_nested(np.ones((1, 2)), [np.ones((3, 2))], 1, [2], log_partition=True, temperature=0)


def test_a_partition_beyond_float32_is_an_error():
    with pytest.raises(DataError, match="too large for float32"):
        exact_topk_nested(np.ones((1, 2)), [np.ones((3, 2))], 1, [3], log_partition=True, temperature=1e-39)


def test_log_partitions_of_large_scores_do_not_overflow():
    queries, vectors = np.full((1, 1), 1e4), np.array([[1.0], [0.0], [1.0]])
    found = exact_topk_nested(queries, [vectors[:2], vectors[2:]], 1, [3], log_partition=True)
    assert found[3].log_partition_Q[0] == pytest.approx(1e4 + np.log(2))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes_and_memory_orders(dtype: type):
    rng = np.random.default_rng(1)
    vectors = rng.integers(-4, 5, (50, 8)).astype(dtype)
    queries = rng.integers(-4, 5, (5, 8)).astype(dtype)
    expected = brute(queries, vectors, 4)
    assert exact_topk(queries, [vectors], 4).ids_QK.tolist() == expected
    assert exact_topk(np.asfortranarray(queries), [np.asfortranarray(vectors)], 4).ids_QK.tolist() == expected
    wide = np.zeros((50, 16), dtype)
    wide[:, ::2] = vectors
    assert exact_topk(queries, [wide[:, ::2]], 4).ids_QK.tolist() == expected


def test_empty_corpus_and_no_queries():
    assert not exact_topk(np.ones((2, 3)), [], 2).mask_QK.any()
    assert not exact_topk(np.ones((2, 3)), [np.empty((0, 3))], 2).mask_QK.any()
    assert len(exact_topk(np.empty((0, 3)), [np.ones((4, 3))], 2)) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_vectors_are_refused_with_their_row(bad: float):
    vectors = np.ones((10, 3))
    vectors[7, 1] = bad
    with pytest.raises(DataError, match="passage 7 "):
        exact_topk(np.ones((1, 3)), [vectors[:6], vectors[6:]], 2)
    with pytest.raises(DataError, match="query 7 "):
        exact_topk(vectors, [np.ones((4, 3))], 2)


def test_finite_vectors_whose_squares_overflow_are_accepted():
    assert as_vectors(np.full((2, 3), 1e30, np.float32)).shape == (2, 3)


def test_widths_that_differ_are_refused():
    with pytest.raises(DataError, match="Queries have 3 dimensions, passages 4"):
        exact_topk(np.ones((1, 3)), [np.ones((2, 4))], 1)
    with pytest.raises(DataError, match="must be"):
        exact_topk(np.ones(3), [np.ones((2, 3))], 1)


def test_top_of_scores_takes_lowest_ids_at_the_edge():
    ids, scores = top_of_scores(np.array([[1.0, 3.0, 1.0, 2.0, 1.0]]), 3)
    assert sorted(ids[0].tolist()) == [0, 1, 3]
    assert sorted(scores[0].tolist()) == [1.0, 2.0, 3.0]


@given(sizes=st.lists(st.integers(0, 9), max_size=6), rows=st.integers(1, 10))
def test_rechunk_keeps_every_row_in_order(sizes: list[int], rows: int):
    total = sum(sizes)
    vectors = np.arange(total * 2, dtype=np.float32).reshape(total, 2)
    parts = list(rechunk(split(vectors, np.cumsum(sizes).tolist()), rows))
    assert all(len(p) == rows for p in parts[:-1])
    assert sum(len(p) for p in parts) == total
    if parts:
        np.testing.assert_array_equal(np.concatenate(parts), vectors)


def test_rechunk_names_the_row_that_is_bad():
    vectors = np.ones((9, 2))
    vectors[8, 0] = np.nan
    with pytest.raises(DataError, match="passage 8 "):
        list(rechunk([vectors[:5], vectors[5:]], 4))

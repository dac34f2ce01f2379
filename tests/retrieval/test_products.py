"""Few queries are compared by matrix products, and only while they are searched."""

import faiss
import numpy as np
import pytest

from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.indexes import IVF
from rag_exp.retrieval.products import matrix_products


@pytest.fixture
def threshold():
    before = faiss.cvar.distance_compute_blas_threshold
    yield before
    faiss.cvar.distance_compute_blas_threshold = before


def test_the_threshold_is_one_of_numbers_inside_and_as_it_was_outside(threshold):
    faiss.cvar.distance_compute_blas_threshold = 128_000
    with matrix_products(4, 384):
        assert faiss.cvar.distance_compute_blas_threshold == 4 * 384
    assert faiss.cvar.distance_compute_blas_threshold == 128_000


def test_fewer_queries_are_left_to_faiss(threshold):
    faiss.cvar.distance_compute_blas_threshold = 128_000
    with matrix_products(3, 384):
        assert faiss.cvar.distance_compute_blas_threshold == 128_000


def test_a_threshold_that_counts_queries_is_left_alone(threshold):
    faiss.cvar.distance_compute_blas_threshold = 20
    with matrix_products(4, 384):
        assert faiss.cvar.distance_compute_blas_threshold == 20


@pytest.mark.parametrize("search", ["exact", "ivf"])
def test_every_search_asks_for_it_and_leaves_nothing_behind(threshold, monkeypatch, search):
    rng = np.random.default_rng(0)
    vectors, asked = rng.integers(-3, 4, (500, 8)).astype(np.float32), rng.integers(-3, 4, (5, 8)).astype(np.float32)
    index = IVF(nlist=4, nprobe=4).create([vectors], 0)
    seen = []
    where, name = (faiss, "knn") if search == "exact" else (type(index.native), "search")
    real = getattr(where, name)

    def watched(*args, **named):
        seen.append(faiss.cvar.distance_compute_blas_threshold)
        return real(*args, **named)

    monkeypatch.setattr(where, name, watched)
    expected = np.sort(asked @ vectors.T, axis=1)[:, ::-1][:, :3]
    found = exact_topk(asked, [vectors], 3) if search == "exact" else index.search(asked, 3)
    np.testing.assert_array_equal(found.scores_QK, expected)
    assert seen[0] == (4 * 8 if threshold > 1_000 else threshold)  # fewer than 4 whose ties are settled may follow
    assert faiss.cvar.distance_compute_blas_threshold == threshold

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag_exp.retrieval import topk
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.indexes import BM25, HNSW, IVF, Flat
from rag_exp.retrieval.results import SearchResult
from rag_exp.retrieval.topk import search_topk


def clustered(n: int, dims: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, dims))
    vectors = centres[rng.integers(20, size=n)] + 0.5 * rng.standard_normal((n, dims))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def vectors() -> np.ndarray:
    return clustered(1200)


def test_saves_the_result_and_measures_recall(vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(topk, "_BATCH", 30)
    asked = clustered(100, seed=1)
    exact = exact_topk(asked, [vectors], 7)
    index = IVF(nlist=16, nprobe=2).create([vectors], 0)
    stats = search_topk(index, asked, 7, tmp_path, exact)
    saved = SearchResult.load(tmp_path)
    whole = index.search(asked, 7)
    np.testing.assert_array_equal(saved.ids_QK, whole.ids_QK)
    assert set(stats["recall"]) == {"1", "5", "7"}
    for rank, recall in stats["recall"].items():
        by_hand = np.mean(
            [
                len(set(a[: int(rank)]) & set(b[: int(rank)])) / int(rank)
                for a, b in zip(saved.ids_QK.tolist(), exact.ids_QK.tolist(), strict=True)
            ]
        )
        assert recall == pytest.approx(by_hand)
    assert 0.3 < stats["recall"]["7"] < 1
    assert (stats["queries"], stats["k"]) == (100, 7)
    assert stats["queries_per_second"] == pytest.approx(100 / stats["search_seconds"])
    assert stats["distances"] == _distances(index, asked)


def _distances(index, asked: np.ndarray) -> int:
    index.search(asked, 7)
    return index.distances


@pytest.mark.parametrize("options", [Flat(), IVF(nlist=4, nprobe=4), HNSW(ef_search=1200)])
def test_an_exhaustive_index_has_recall_one(options, vectors: np.ndarray, tmp_path: Path):
    asked = clustered(40, seed=2)
    stats = search_topk(options.create([vectors], 0), asked, 20, tmp_path, exact_topk(asked, [vectors], 20))
    assert stats["recall"] == {"1": 1.0, "5": 1.0, "20": 1.0}


def test_bm25_has_no_recall_but_a_reason(tmp_path: Path):
    index = BM25().create(["one word", "two words"], 0)
    stats = search_topk(index, ["two"], 1, tmp_path, None, "BM25 searches no vectors")
    assert stats["recall"] is None
    assert stats["recall_reason"] == "BM25 searches no vectors"
    assert stats["distances"] is None
    assert SearchResult.load(tmp_path).ids_QK.tolist() == [[1]]


def test_no_questions_and_an_empty_index(tmp_path: Path):
    index = Flat().create([np.ones((3, 2), np.float32)], 0)
    stats = search_topk(index, np.empty((0, 2)), 2, tmp_path, SearchResult.empty(0, 2))
    assert (stats["recall"], stats["recall_reason"]) == (None, "no questions")
    assert stats["queries_per_second"] is None
    stats = search_topk(Flat().create([], 0), np.ones((1, 2)), 2, tmp_path, SearchResult.empty(1, 2))
    assert (stats["recall"], stats["recall_reason"]) == (None, "the index is empty")

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag_exp.retrieval import topk
from rag_exp.retrieval.exact import exact_topk_nested
from rag_exp.retrieval.fidelity import prior_kl, true_scores
from rag_exp.retrieval.indexes import BM25, HNSW, IVF, Flat
from rag_exp.retrieval.results import SearchResult
from rag_exp.retrieval.topk import Reference, search_topk


def clustered(n: int, dims: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, dims))
    vectors = centres[rng.integers(20, size=n)] + 0.5 * rng.standard_normal((n, dims))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def compared_with(asked: np.ndarray, vectors: np.ndarray, k: int, temperature: float = 1.0) -> Reference:
    size = len(vectors)
    found = exact_topk_nested(asked, [vectors], k, [size], log_partition=True, temperature=temperature)
    return Reference(found[size], [vectors], temperature)


@pytest.fixture
def vectors() -> np.ndarray:
    return clustered(1200)


def test_saves_the_result_and_measures_recall(vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(topk, "BATCH", 30)
    asked = clustered(100, seed=1)
    reference = compared_with(asked, vectors, 7)
    exact = reference.exact
    index = IVF(nlist=16, nprobe=2).create([vectors], 0)
    stats = search_topk(index, asked, 7, tmp_path, reference)
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
    stats = search_topk(options.create([vectors], 0), asked, 20, tmp_path, compared_with(asked, vectors, 20))
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
    stats = search_topk(index, np.empty((0, 2)), 2, tmp_path, Reference(SearchResult.empty(0, 2), []))
    assert (stats["recall"], stats["recall_reason"]) == (None, "no questions")
    assert stats["queries_per_second"] is None
    stats = search_topk(Flat().create([], 0), np.ones((1, 2)), 2, tmp_path, Reference(SearchResult.empty(1, 2), []))
    assert (stats["recall"], stats["recall_reason"]) == (None, "the index is empty")


def test_the_prior_facts_of_an_exact_search(vectors: np.ndarray, tmp_path: Path):
    """KL(q||p) of exact scores is log Z of the corpus minus log Z of what was found; nothing is missed."""
    asked = 8 * clustered(60, seed=3)
    reference = compared_with(asked, vectors, 5, temperature=2.0)
    stats = search_topk(Flat().create([vectors], 0), asked, 5, tmp_path, reference)
    scores = asked.astype(np.float64) @ vectors.T.astype(np.float64) / 2
    top = -np.sort(-scores, axis=1)[:, :5]
    by_hand = np.logaddexp.reduce(scores, axis=1) - np.logaddexp.reduce(top, axis=1)
    assert stats["prior_kl"] == pytest.approx(by_hand.mean(), rel=1e-4)
    assert stats["prior_mass_missed"] == 0.0
    saved = SearchResult.load(tmp_path)
    np.testing.assert_allclose(saved.log_partition_Q, np.logaddexp.reduce(scores, axis=1), rtol=1e-5)


def test_an_exact_index_is_searched_for_its_speed_alone(vectors: np.ndarray, tmp_path: Path):
    asked = clustered(600, seed=3)
    index = Flat().create([vectors], 0)
    stats = search_topk(index, asked, 3, tmp_path, compared_with(asked, vectors, 8))
    assert index.distances == 1200  # the last search was of one query
    assert stats["distances"] == 600 * 1200
    assert stats["queries_per_second"] == pytest.approx(256 / stats["search_seconds"])
    assert 0 < stats["latency_ms"]["p50"] <= stats["latency_ms"]["p95"]
    np.testing.assert_array_equal(SearchResult.load(tmp_path).ids_QK, index.search(asked, 3).ids_QK)


def test_what_an_index_misses_is_counted_in_prior_mass(vectors: np.ndarray, tmp_path: Path):
    asked = 8 * clustered(80, seed=4)
    reference = compared_with(asked, vectors, 6)
    stats = search_topk(IVF(nlist=16, nprobe=1).create([vectors], 0), asked, 6, tmp_path, reference)
    found = SearchResult.load(tmp_path)
    p = np.exp(asked.astype(np.float64) @ vectors.T - reference.exact.log_partition_Q[:, None])
    missed = [
        sum(row[i] for i in set(exact) - set(ours))
        for row, exact, ours in zip(p, reference.exact.ids_QK.tolist(), found.ids_QK.tolist(), strict=True)
    ]
    assert stats["prior_mass_missed"] == pytest.approx(np.mean(missed), rel=1e-4)
    assert stats["prior_mass_missed"] > 0.01
    assert np.isfinite(stats["prior_kl"])


def test_scores_that_are_approximations_have_a_divergence_too():
    """q by hand: the index's scores are off, so that even the whole corpus has one."""
    found = SearchResult.of(np.array([[0, 1]]), np.array([[1.0, 0.0]]), 2)
    exact = np.array([[0.0, 1.0]])
    log_z = np.logaddexp(0.0, 1.0)
    q = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()
    by_hand = (q * (np.log(q) - (exact[0] - log_z))).sum()
    assert prior_kl(found, exact, np.array([log_z]), 1.0)[0] == pytest.approx(by_hand)
    nothing = prior_kl(SearchResult.empty(1, 2), np.full((1, 2), -np.inf), np.array([log_z]), 1.0)
    assert np.isnan(nothing[0])


def test_true_scores_are_those_of_the_blocks(vectors: np.ndarray):
    asked, ids = clustered(300, seed=5), np.random.default_rng(0).integers(-1, 1200, (300, 4))
    expected = np.where(ids >= 0, np.einsum("qd,qkd->qk", asked, vectors[ids]), -np.inf)
    np.testing.assert_allclose(true_scores(asked, [vectors[:500], vectors[500:]], ids), expected, rtol=1e-5, atol=1e-6)


def test_only_what_rounding_puts_below_zero_is_zero():
    """Two passages are the corpus: q = p, and log Z is off by less, and by more, than float32 rounds at T = 0.001."""
    scores = np.array([[3.0, 2.9999]], np.float32)
    found = SearchResult.of(np.array([[0, 1]]), scores, 2)
    log_z = np.logaddexp.reduce(scores.astype(np.float64) / 0.001, axis=1)
    assert prior_kl(found, scores, log_z, 0.001)[0] == pytest.approx(0.0, abs=1e-9)
    assert prior_kl(found, scores, log_z - 1e-3, 0.001)[0] == 0.0
    assert prior_kl(found, scores, log_z - 0.1, 0.001)[0] == pytest.approx(-0.1, abs=1e-6)
    assert prior_kl(found, scores, log_z + 1e-3, 0.001)[0] == pytest.approx(1e-3, abs=1e-6)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag_exp.core.errors import DataError
from rag_exp.retrieval import annoy_index
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.indexes import Annoy
from rag_exp.retrieval.recall import recall_against
from rag_exp.retrieval.tuning import tune


@pytest.fixture
def installed():
    pytest.importorskip("annoy", reason="annoy is not installed: it has no wheels, and needs a compiler")


def clustered(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((30, 32))
    vectors = centres[rng.integers(30, size=n)] + 0.5 * rng.standard_normal((n, 32))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("metric", ["dot", "angular"])
def test_scores_are_inner_products_whatever_the_metric(metric: str):
    vectors = clustered(600) * np.linspace(0.3, 3, 600, dtype=np.float32)[::-1, None]
    asked = 4 * clustered(40, seed=1)
    found = Annoy(metric=metric, trees=16, search_k=20_000).create([vectors], 0).search(asked, 10)
    products = asked @ vectors.T
    np.testing.assert_allclose(found.scores_QK, np.take_along_axis(products, found.ids_QK, 1), rtol=1e-4, atol=1e-4)
    by = products if metric == "dot" else products / np.linalg.norm(vectors, axis=1)
    best = np.sort(np.argsort(-by, axis=1)[:, :10], axis=1)
    assert (np.sort(found.ids_QK, axis=1) == best).mean() > 0.97  # the nearest by that metric, in the order of products


@pytest.mark.usefixtures("installed")
def test_more_candidates_find_more_and_are_tuned_to():
    vectors, asked = clustered(2000), clustered(100, seed=1)
    exact = exact_topk(asked, [vectors], 10)
    options = Annoy(trees=8, mode="iso_recall", recall_target=0.9)
    built = options.create([vectors], 0)
    tuned = tune(built, options, asked, exact, 10)
    assert tuned.reached
    assert tuned.dial == "search_k"
    built.turn(tuned.value)
    assert recall_against(built.search(asked, 10), exact, 10, True) >= 0.9
    built.turn(10)
    assert recall_against(built.search(asked, 10), exact, 10, True) < 0.9


@pytest.mark.usefixtures("installed")
def test_another_seed_is_another_forest():
    vectors, asked = clustered(2000), clustered(100, seed=1)
    one, same, other = (Annoy(trees=2).create([vectors], seed).search(asked, 10).ids_QK for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.usefixtures("installed")
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path):
    Annoy(trees=2).create([clustered(300)], 0).save(tmp_path)
    whole = (tmp_path / "index.annoy").read_bytes()
    (tmp_path / "index.annoy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="no readable index"):
        Annoy().load(tmp_path)


def test_a_package_that_is_missing_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(annoy_index, "find_spec", lambda name: None)
    (problem,) = Annoy().problems(100)
    assert problem.startswith("index.kind: index=annoy needs the package annoy")
    assert "rag-exp[annoy]" in problem

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_exp.core.errors import DataError
from rag_exp.retrieval import factory
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.factory import FactoryOptions
from rag_exp.retrieval.indexes import BM25, IVFPQ, OPQ, PQ, SQ, Factory, FastScan, Hybrid, RaBitQ
from rag_exp.retrieval.recall import recall_against

LOSSY = [
    (PQ(string="PQ{m}x4"), 0.3),
    (IVFPQ(string="IVF{nlist},PQ{m}x4", search="nprobe=8"), 0.3),
    (FastScan(), 0.3),
    (RaBitQ(), 0.2),
    (Factory(string="RaBitQfs"), 0.2),
    (SQ(string="SQ4"), 0.7),
]


def clustered(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((30, 32))
    vectors = centres[rng.integers(30, size=n)] + 0.5 * rng.standard_normal((n, 32))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("options", "least"), LOSSY, ids=lambda o: getattr(o, "string", ""))
def test_compressed_indexes(options: FactoryOptions, least: float, tmp_path: Path):
    vectors, asked = clustered(1500), clustered(100, seed=1)
    built = options.create([vectors[:700], vectors[700:]], 3)
    found = built.search(asked, 10)
    assert recall_against(found, exact_topk(asked, [vectors], 10), 10, built.exact_scores) > least
    assert not built.exact_scores
    built.save(tmp_path)
    again = options.load(tmp_path)
    assert again.stats() == built.stats()
    assert (tmp_path / "index.faiss").stat().st_size == built.stats()["bytes"]
    repeated = options.create([vectors], 3)
    for other in (again, repeated):
        np.testing.assert_array_equal(other.search(asked, 10).ids_QK, found.ids_QK)


def test_a_learnt_rotation():
    vectors, asked = clustered(9984)[:, :8], clustered(100, seed=1)[:, :8]
    exact = exact_topk(asked, [vectors], 10)
    built = OPQ(search="nprobe=32").create([vectors], 0)
    assert built.stats()["string"] == "OPQ2_8,IVF256,PQ2"
    assert recall_against(built.search(asked, 10), exact, 10, False) > 0.4


@pytest.mark.parametrize("options", [PQ(string="PQ{m}x4"), FastScan(), RaBitQ()], ids=lambda o: o.string)
def test_k_beyond_a_compressed_corpus_is_masked(options: FactoryOptions):
    found = options.create([clustered(700)], 0).search(clustered(3, seed=1), 900)
    assert found.ids_QK.shape == (3, 900)
    assert (found.ids_QK[~found.mask_QK] == -1).all()
    assert found.mask_QK.sum(axis=1).max() <= 700


def test_what_follows_from_the_corpus():
    assert IVFPQ().derived(32_380)["string"] == "IVF512,PQ{m}"
    assert PQ(string="PQ{m}x4").create([clustered(700)], 0).stats()["string"] == "PQ8x4"
    assert PQ(string="PCA{m},SQ8").create([clustered(50)[:, :9]], 0).stats()["string"] == "PCA1,SQ8"


@pytest.mark.parametrize(
    ("string", "needed"),
    [
        ("PQ{m}", 9984),
        ("PQ8", 9984),
        ("PQ8x4fs", 624),
        ("IVF100,SQ8", 3900),
        ("IVF1,PQ8x6", 2496),
        ("OPQ8_32,PQ8x4", 9984),
        ("SQ8", 0),
    ],
)
def test_too_few_training_points_are_refused(string: str, needed: int):
    options = Factory(string=string)
    assert options.problems(needed) == []
    if needed:
        (problem,) = options.problems(needed - 1)
        assert f"need {needed} passages" in problem
        with pytest.raises(DataError, match="fewer bits"):
            options.create([clustered(600)], 0)


def test_strings_that_mean_nothing_here_are_refused():
    with pytest.raises(DataError, match="cannot make 'Nonsense'"):
        Factory(string="Nonsense").create([clustered(50)], 0)
    with pytest.raises(DataError, match="compares bits"):
        Factory(string="LSH", metric="l2").create([clustered(50)], 0)
    with pytest.raises(DataError, match="does not take 'nprobes=3'"):
        Factory(string="IVF1,Flat", search="nprobes=3").create([clustered(50)], 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Factory(string="IVF{nlits},SQ8"), "index.string: {nlits} stands for nothing. Did you mean 'nlist'?"),
        (Factory(string="IVF64,PQ7"), "index.string: faiss cannot make 'IVF64,PQ7' over 64 dimensions"),
        (Factory(string="Flt"), "(could not parse index string Flt)"),
        (Factory(string="IDMap,Flat"), "leave IDMap out"),
        (Factory(string="LSH"), "compares bits"),
        (IVFPQ(search="nprobes=4"), "does not take 'nprobes=4'"),
        (IVFPQ(search="nprobe=4;efSearch=3"), "is no list of parameters"),
        (IVFPQ(search="nprobe=4x"), "is no list of parameters"),
        (Hybrid(dense=Factory(string="LSH"), lexical=BM25()), "index.dense.string: LSH"),
    ],
)
def test_what_does_not_fit_is_known_before_there_are_vectors(options, said):
    (problem,) = options.misfits(64)
    assert said in problem


def test_every_kind_of_its_own_fits():
    for options in (SQ(), PQ(), IVFPQ(), OPQ(), FastScan(), RaBitQ(), IVFPQ(search="nprobe=4, max_codes=1000")):
        assert options.misfits(96) == []


def test_codes_are_not_renumbered_and_a_search_that_needs_that_is_refused(monkeypatch: pytest.MonkeyPatch):
    """faiss's polysemous training takes most of the time, and changes no distance: the same passages are found."""
    vectors, asked = clustered(700), clustered(30, seed=1)
    plain = PQ(string="PQ4x4").create([vectors], 0)
    seeded = factory._seed

    def renumbering(native: Any, seed: int) -> None:
        seeded(native, seed)
        native.do_polysemous_training = True

    monkeypatch.setattr(factory, "_seed", renumbering)
    renumbered = PQ(string="PQ4x4").create([vectors], 0)
    np.testing.assert_array_equal(plain.search(asked, 10).ids_QK, renumbered.search(asked, 10).ids_QK)
    np.testing.assert_array_equal(plain.search(asked, 10).scores_QK, renumbered.search(asked, 10).scores_QK)
    with pytest.raises(DataError, match="polysemous"):
        PQ(string="PQ4x4", search="ht=3").create([vectors], 0)


@pytest.mark.parametrize("string", ["Flat", "IVF1,Flat", "RR{dims},IVF1,Flat", "HNSW16"])
def test_l2_distances_are_turned_back_into_inner_products(string: str, tmp_path: Path):
    vectors, asked = clustered(800) * np.linspace(0.5, 2, 800, dtype=np.float32)[:, None], 3 * clustered(50, seed=1)
    options = Factory(string=string, metric="l2", search="efSearch=400" if "HNSW" in string else "")
    built = options.create([vectors[:300], vectors[300:]], 0)
    found = built.search(asked, 10)
    np.testing.assert_allclose(
        found.scores_QK, np.einsum("qd,qkd->qk", asked, vectors[found.ids_QK]), rtol=1e-4, atol=1e-4
    )
    distances = ((asked[:, None] - vectors[None]) ** 2).sum(axis=2)
    nearest = np.sort(np.argsort(distances, axis=1)[:, :10], axis=1)
    assert (np.sort(found.ids_QK, axis=1) == nearest).mean() > (0.9 if "HNSW" in string else 0.99)
    built.save(tmp_path)
    again = options.load(tmp_path).search(asked, 10)
    np.testing.assert_array_equal(again.ids_QK, found.ids_QK)
    np.testing.assert_array_equal(again.scores_QK, found.scores_QK)


def test_of_vectors_of_one_length_both_metrics_find_the_same():
    vectors, asked = clustered(800), clustered(50, seed=1)
    one, other = (
        Factory(string="IVF8,Flat", search="nprobe=8", metric=metric).create([vectors], 0).search(asked, 10)
        for metric in ("inner_product", "l2")
    )
    np.testing.assert_array_equal(one.ids_QK, other.ids_QK)
    np.testing.assert_allclose(one.scores_QK, other.scores_QK, rtol=1e-5, atol=1e-6)


def test_strings_that_know_l2_alone():
    index = Factory(string="IMI2x4,Flat", metric="l2", search="nprobe=256").create([clustered(800)], 0)
    assert index.search(clustered(50, seed=1), 5).mask_QK.all()
    assert not Factory(string="IVF1,Flat", metric="l2").splits_exactly


def test_the_metric_is_in_the_identity_where_it_is_not_the_usual_one():
    assert "metric" not in Factory(string="Flat").identity()
    assert Factory(string="Flat", metric="l2").identity()["metric"] == "l2"


def test_search_parameters_reach_through_a_rotation(tmp_path: Path):
    vectors, asked = clustered(2000), clustered(80, seed=1)
    Factory(string="RR32,IVF32,SQ8").create([vectors], 0).save(tmp_path)
    exact = exact_topk(asked, [vectors], 10)
    few, all_ = (
        recall_against(Factory(string="", search=f"nprobe={n}").load(tmp_path).search(asked, 10), exact, 10, False)
        for n in (1, 32)
    )
    assert few < all_
    assert all_ > 0.95


@pytest.mark.parametrize(
    ("string", "exact"), [("IVF4,Flat", True), ("HNSW8", True), ("SQ8", False), ("PCA8,Flat", False)]
)
def test_it_is_known_whose_scores_are_exact(string: str, exact: bool):
    assert Factory(string=string).create([clustered(300)], 0).exact_scores is exact

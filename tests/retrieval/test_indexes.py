"""What single kinds of index have beside the contract of all (``test_index_contract.py``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from rag_exp.core.errors import DataError
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.indexes import BM25, HNSW, IVF, Flat, IndexOptions
from rag_exp.retrieval.recall import recall_against


def _spread(n: int, dims: int = 16) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((n, dims)).astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def test_distances_are_counted():
    vectors, asked = _spread(400), _spread(8)
    flat = Flat().create([vectors], 0)
    flat.search(asked, 3)
    assert flat.distances == 8 * 400
    ivf = IVF(nlist=10, nprobe=10).create([vectors], 0)
    ivf.search(asked, 3)
    assert ivf.distances == 8 * (400 + 10)
    hnsw = HNSW(m=4, ef_construction=20, ef_search=10).create([vectors], 0)
    hnsw.search(asked, 3)
    assert hnsw.distances is not None
    assert 8 * 10 < hnsw.distances < 8 * 400


def test_search_parameters_belong_to_the_search(tmp_path: Path):
    vectors = _spread(500)
    IVF(nlist=8, nprobe=1).create([vectors], 0).save(tmp_path)
    exact = exact_topk(_spread(60), [vectors], 10)
    recalls = []
    for nprobe in (1, 2, 8):
        found = IVF(nlist=8, nprobe=nprobe).load(tmp_path).search(_spread(60), 10)
        recalls.append(recall_against(found, exact, 10, True))
    assert recalls[0] < recalls[1] < recalls[2] == 1.0
    assert IVF(nprobe=1).identity("rag_exp:search") == IVF(nprobe=64).identity("rag_exp:search")
    assert HNSW(ef_search=1).identity("rag_exp:search") == HNSW(ef_search=64).identity("rag_exp:search")


def test_the_seed_moves_the_centroids_and_nothing_else_does(tmp_path: Path):
    vectors = _spread(500)
    one, same, other = (IVF(nlist=12, nprobe=1).create([vectors], seed).search(_spread(80), 10) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.ids_QK, same.ids_QK)
    assert (one.ids_QK != other.ids_QK).any()


@pytest.mark.parametrize(
    ("size", "nlist"), [(0, 1), (38, 1), (78, 2), (1_000, 16), (32_380, 512), (1_000_000, 4096), (21_000_000, 16384)]
)
def test_auto_nlist(size: int, nlist: int):
    assert IVF().derived(size)["nlist"] == nlist
    assert nlist == 1 or nlist * 39 <= size


def test_too_few_training_points_are_a_problem_before_the_build():
    assert IVF().problems(1) == []
    assert IVF(nlist=10).problems(390) == []
    (problem,) = IVF(nlist=11, nprobe=4).problems(390)
    assert problem.startswith("index.nlist: 11 lists need 429 passages")
    assert "index.nlist=10 " in problem
    assert "auto (8)" in problem
    (problem,) = IVF(nlist=4, nprobe=5).problems(10_000)
    assert problem.startswith("index.nprobe: 5 is more than the 4 lists")


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (IVF, {"nlist": 0}),
        (IVF, {"nlist": "many"}),
        (IVF, {"nprobe": 0}),
        (HNSW, {"m": 1}),
        (HNSW, {"ef_search": 0}),
        (BM25, {"b": 1.5}),
        (BM25, {"k1": -1}),
        (BM25, {"stopwords": "fr"}),
        (Flat, {"nlist": 3}),
    ],
)
def test_wrong_values_are_refused(cls: type[IndexOptions], values: dict):
    with pytest.raises(ValidationError):
        cls(**values)


def test_hnsw_with_threads_says_that_it_does_not_repeat():
    assert HNSW(threads=2).create([_spread(50)], 0).stats()["reproducible"] is False


def test_hnsw_gives_faiss_its_threads_back():
    import faiss

    before = faiss.omp_get_max_threads()
    HNSW(threads=before + 1).create([_spread(50)], 0)
    assert faiss.omp_get_max_threads() == before


def test_a_damaged_file_is_a_data_error(tmp_path: Path):
    IVF(nlist=2).create([_spread(100)], 0).save(tmp_path)
    (tmp_path / "index.faiss").write_bytes(b"IwFlgarbage")
    with pytest.raises(DataError, match="no readable index"):
        IVF().load(tmp_path)


def test_flat_is_not_written_through_a_memory_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a full disk would kill the process")

    vectors = _spread(7)
    monkeypatch.setattr(np.lib.format, "open_memmap", refuse)
    Flat().create([vectors[:3], vectors[3:]], seed=0).save(tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), vectors)

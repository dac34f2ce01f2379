"""What every index must do. BM25 passes the same tests over texts that stand for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from rag_exp.core.errors import DataError
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.indexes import BM25, HNSW, INDEXES, IVF, SQ, BuiltIndex, Factory, Flat, IndexOptions
from rag_exp.retrieval.recall import recall_against

VECTOR_INDEXES: list[IndexOptions] = [
    Flat(),
    IVF(nlist=1, nprobe=1),
    IVF(nprobe=3),
    HNSW(m=8, ef_construction=40, ef_search=64),
    SQ(),
    SQ(string="SQfp16"),
    Factory(string="IVF{nlist},Flat", search="nprobe=10000"),
    Factory(string="IVF1,SQ8"),
]


@dataclass
class Case:
    """An index over ``n`` passages of which passage i is best for query i and unlike all others."""

    options: IndexOptions

    def content(self, n: int, repeat: int = 1) -> Sequence:
        if self.options.needs == "texts":
            return [f"only word{i} here" for i in range(n) for _ in range(repeat)]
        vectors = np.repeat(_spread(n), repeat, axis=0)
        return [vectors[: len(vectors) // 3], vectors[len(vectors) // 3 :]] if len(vectors) else []

    def queries(self, n: int) -> np.ndarray | list[str]:
        return [f"word{i}?" for i in range(n)] if self.options.needs == "texts" else _spread(n)

    def build(self, n: int, repeat: int = 1) -> BuiltIndex:
        return self.options.create(self.content(n, repeat), seed=3)


def _spread(n: int, dims: int = 16) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((n, dims)).astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


@pytest.fixture(params=[*VECTOR_INDEXES, BM25()], ids=lambda o: f"{o.kind}-{o.identity()}"[:40])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture(params=VECTOR_INDEXES, ids=lambda o: f"{o.kind}-{o.identity()}"[:40])
def vector_case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_all_kinds_are_registered():
    assert set(INDEXES.kinds) >= {"flat", "ivf", "hnsw", "bm25"}


def test_finds_what_is_there_best_first(case: Case):
    found = case.build(90).search(case.queries(90), 5)
    assert found.ids_QK[:, 0].tolist() == list(range(90))
    assert found.ids_QK.shape == (90, 5)
    kept = np.where(found.mask_QK, found.scores_QK, -np.inf)
    assert (kept[:, :-1] >= kept[:, 1:]).all()


def test_k_beyond_the_corpus_is_padded_and_masked(case: Case):
    found = case.build(6).search(case.queries(2), 10)
    assert found.ids_QK.shape == (2, 10)
    assert sorted(found.ids_QK[0][found.mask_QK[0]].tolist()) == list(range(6))
    assert (found.ids_QK[~found.mask_QK] == -1).all()
    assert np.isneginf(found.scores_QK[~found.mask_QK]).all()
    assert np.isfinite(found.scores_QK[found.mask_QK]).all()


def test_an_empty_index_finds_nothing(case: Case, tmp_path: Path):
    index = case.build(0)
    assert index.size == 0
    index.save(tmp_path)
    for built in (index, case.options.load(tmp_path)):
        found = built.search(case.queries(3), 4)
        assert not found.mask_QK.any()
        assert found.ids_QK.shape == (3, 4)


def test_no_queries(case: Case):
    queries = case.queries(5)[:0]
    assert len(case.build(50).search(queries, 3)) == 0


def test_one_query_is_as_many(case: Case):
    index = case.build(80)
    many = index.search(case.queries(30), 4)
    for q in (0, 17, 29):
        one = index.search(case.queries(30)[q : q + 1], 4)
        assert one.ids_QK[0].tolist() == many.ids_QK[q].tolist()
        np.testing.assert_allclose(one.scores_QK[0], many.scores_QK[q], rtol=1e-5, atol=1e-6)


def test_duplicates_are_all_found(case: Case):
    found = case.build(20, repeat=3).search(case.queries(20), 3)
    if isinstance(case.options, HNSW):  # a graph need not reach every duplicate; the best is one of them
        assert (found.ids_QK[:, 0] // 3).tolist() == list(range(20))
        return
    assert [sorted(ids) for ids in found.ids_QK.tolist()] == [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(20)]


def test_real_ties_come_in_the_order_of_ids(vector_case: Case):
    """Integer-valued vectors: float32 is exact, so equal scores are equal however they were summed."""
    vectors = np.random.default_rng(5).integers(-1, 2, (90, 4)).astype(np.float32)
    found = vector_case.options.create([vectors[:40], vectors[40:]], 3).search(vectors[:30], 20)
    tied = 0
    for ids, scores in zip(found.ids_QK, found.scores_QK, strict=True):
        pairs = [(-s, i) for i, s in zip(ids.tolist(), scores.tolist(), strict=True) if i >= 0]
        assert pairs == sorted(pairs)
        tied += len(pairs) - len({s for s, _ in pairs})
    assert tied > 100


def test_of_passages_tied_at_rank_k_the_lowest_ids_are_found(vector_case: Case):
    if isinstance(vector_case.options, HNSW):
        pytest.skip("a graph keeps the candidates that it met first")
    vectors = np.random.default_rng(5).integers(-1, 2, (90, 4)).astype(np.float32)
    index = vector_case.options.create([vectors], 3)
    every = index.search(vectors[:30], 90)
    for k in (1, 2, 7, 30):
        np.testing.assert_array_equal(index.search(vectors[:30], k).ids_QK, every.first(k).ids_QK)


def test_save_and_load_give_the_same_result(case: Case, tmp_path: Path):
    index = case.build(120)
    index.save(tmp_path / "index")
    again = case.options.load(tmp_path / "index")
    before, after = index.search(case.queries(40), 7), again.search(case.queries(40), 7)
    np.testing.assert_array_equal(before.ids_QK, after.ids_QK)
    np.testing.assert_array_equal(before.scores_QK, after.scores_QK)
    assert again.size == 120
    assert again.stats() == index.stats()


def test_saved_files_hold_no_pickle(case: Case, tmp_path: Path):
    case.build(40).save(tmp_path)
    assert {f.suffix for f in tmp_path.rglob("*") if f.is_file()} <= {".json", ".npy", ".faiss"}


def test_a_build_repeats_itself(case: Case, tmp_path: Path):
    first, second = (case.build(200).search(case.queries(50), 6) for _ in range(2))
    np.testing.assert_array_equal(first.ids_QK, second.ids_QK)
    np.testing.assert_array_equal(first.scores_QK, second.scores_QK)


def test_loading_nothing_says_where(case: Case, tmp_path: Path):
    with pytest.raises(DataError, match=str(tmp_path)):
        case.options.load(tmp_path)


def test_stats_are_plain_and_count(case: Case):
    stats = case.build(64).stats()
    assert stats["passages"] == 64
    assert stats["bytes"] > 0
    assert stats["reproducible"] is True
    assert "build_flops" in stats
    assert stats["build_flops"] is not None or stats["build_flops_reason"]


def test_how_vectors_were_stored_does_not_matter(vector_case: Case):
    vectors, asked = _spread(150), _spread(40)
    one = vector_case.options.create([vectors], 3).search(asked, 5)
    many = vector_case.options.create([vectors[:1], vectors[1:70], vectors[70:70], vectors[70:]], 3).search(asked, 5)
    np.testing.assert_array_equal(one.ids_QK, many.ids_QK)
    np.testing.assert_array_equal(one.scores_QK, many.scores_QK)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_dtypes_and_memory_orders(vector_case: Case, dtype: type):
    vectors, asked = _spread(100).astype(dtype), _spread(10).astype(dtype)
    expected = vector_case.options.create([vectors.astype(np.float32)], 3).search(asked.astype(np.float32), 4)
    wide = np.zeros((100, 32), dtype)
    wide[:, ::2] = vectors
    for stored in (vectors, np.asfortranarray(vectors), wide[:, ::2]):
        found = vector_case.options.create([stored], 3).search(np.asfortranarray(asked), 4)
        np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_vectors_are_refused_with_their_row(vector_case: Case, bad: float):
    vectors = _spread(100)
    vectors[83, 2] = bad
    with pytest.raises(DataError, match="passage 83 "):
        vector_case.options.create([vectors[:50], vectors[50:]], 3)
    with pytest.raises(DataError, match="query 83 "):
        vector_case.build(100).search(vectors, 2)


def test_queries_of_another_width_are_refused(vector_case: Case):
    with pytest.raises(DataError, match="one encoder"):
        vector_case.build(50).search(np.ones((2, 5)), 1)


def test_scores_are_true_inner_products(vector_case: Case):
    vectors = _spread(200) * np.linspace(0.8, 1.2, 200, dtype=np.float32)[:, None]
    asked = 5 * _spread(20)[::-1]
    built = vector_case.options.create([vectors], 3)
    if not built.exact_scores:
        pytest.skip("this index says that its scores are approximations")
    found = built.search(asked, 6)
    expected = np.einsum("qd,qkd->qk", asked, vectors[found.ids_QK])
    np.testing.assert_allclose(found.scores_QK, expected, rtol=1e-5, atol=1e-5)


def test_full_search_equals_exact_search(vector_case: Case):
    vectors, asked = _spread(300), _spread(310)[300:]
    options = vector_case.options
    if isinstance(options, IVF):
        options = options.model_copy(update={"nprobe": 10_000})
    if isinstance(options, HNSW):
        options = options.model_copy(update={"ef_search": 300})
    exact = exact_topk(asked, [vectors], 10)
    assert recall_against(options.create([vectors], 3).search(asked, 10), exact, 10, True) == 1.0


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

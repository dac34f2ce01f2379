"""What every registered index must do. One of texts passes the same tests over texts that stand for vectors.

A new kind needs an example here. Where passages are needed to train on, the corpora of the tests are as large as that.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import faiss
import numpy as np
import pytest

from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import file_digest
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.hybrid import Both
from rag_exp.retrieval.index_file import Named
from rag_exp.retrieval.indexes import (
    BM25,
    HNSW,
    INDEXES,
    IVF,
    IVFPQ,
    OPQ,
    PQ,
    SQ,
    Annoy,
    BuiltIndex,
    Factory,
    FastScan,
    File,
    Flat,
    Hybrid,
    IndexOptions,
    Milvus,
    RaBitQ,
)
from rag_exp.retrieval.recall import recall_against

ALL_LISTS = "nprobe=10000"


class Elsewhere:
    """Options of an index that raw faiss makes of the content, its vectors in another order, and that is then opened.

    Args:
        string: of faiss's factory.
        l2: by distance.
        search: faiss's search parameters.
    """

    kind, needs, lists = "file", "vectors", ""

    def __init__(self, string: str, l2: bool = False, search: str = ""):
        self.string, self._l2, self._search = string, l2, search
        self._home = tempfile.TemporaryDirectory()

    def problems(self, size: int) -> list[str]:
        return []

    @property
    def dial(self) -> str | None:
        return "efSearch" if "HNSW" in self.string else None

    def dial_values(self, size: int, k: int) -> range:
        return range(k, size + 1)

    def searched_by(self) -> dict[str, str]:
        return {"search": self._search}

    def model_dump_json(self) -> str:
        return f"{self.string} {self._l2} {self._search}"

    def create(self, blocks: Sequence[np.ndarray], seed: int) -> BuiltIndex:
        vectors = np.concatenate([np.asarray(b, np.float32) for b in blocks] or [np.empty((0, 16), np.float32)])
        order = np.random.default_rng(seed).permutation(len(vectors))
        by = faiss.METRIC_L2 if self._l2 else faiss.METRIC_INNER_PRODUCT
        native = faiss.index_factory(vectors.shape[1], self.string, by)
        if len(order):
            native.train(np.nan_to_num(vectors[order], posinf=0, neginf=0))
            if "IDMap" in self.string:
                native.add_with_ids(vectors[order], order)
            else:
                native.add(vectors[order])
        home = Path(self._home.name)
        faiss.write_index(native, str(home / "new.faiss"))
        file = home / f"{file_digest(home / 'new.faiss')}.faiss"
        (home / "new.faiss").rename(file)
        (home / "ids.txt").write_text("".join(f"{row}\n" for row in order))
        ids = None if "IDMap" in self.string else str(home / "ids.txt")
        return File(path=str(file), ids=ids, search=self._search).create(Named(blocks, Rows(len(order))), seed)

    def load(self, folder: Path) -> BuiltIndex:
        saved = folder / "index.json"
        content = json.loads(saved.read_text())["content"]["path"] if saved.exists() else "none"
        return File(path=f"{self._home.name}/{content}.faiss", search=self._search).load(folder)


class Rows:
    """A corpus whose passages are called by their rows."""

    def __init__(self, size: int):
        self._size = size

    def __len__(self) -> int:
        return self._size

    def ids(self, rows: Sequence[int]) -> list[str]:
        return [str(row) for row in rows]

    def rows_of(self, ids: Sequence[str]) -> list[list[int]]:
        return [[int(id)] for id in ids]


EXAMPLES: dict[str, list[IndexOptions]] = {
    "flat": [Flat()],
    "ivf": [IVF(nlist=1, nprobe=1), IVF(nprobe=3), IVF(nprobe=3, lists="disk")],
    "hnsw": [HNSW(m=8, ef_construction=40, ef_search=64)],
    "sq": [SQ(), SQ(string="SQfp16"), SQ(string="SQ4")],
    "factory": [
        Factory(string="IVF{nlist},Flat", search=ALL_LISTS),
        Factory(string="IVF1,SQ8"),
        Factory(string="RR{dims},HNSW8", search="efSearch=64"),
        Factory(string="RaBitQfs"),
        Factory(string="IVF{nlist},Flat", search=ALL_LISTS, metric="l2"),
    ],
    "pq": [PQ(string="PQ{m}x4np")],
    "ivfpq": [IVFPQ(string="IVF{nlist},PQ{m}x4np", search=ALL_LISTS, lists="disk")],
    "opq": [OPQ(string="RR{dims},IVF1,PQ{m}x4np")],  # a rotation that is learnt takes long: see test_factory.py
    "fastscan": [FastScan()],
    "rabitq": [RaBitQ(search=ALL_LISTS)],
    "annoy": [Annoy(trees=8), Annoy(trees=8, metric="angular", search_k=2000)],
    "milvus": [Milvus(type="FLAT"), Milvus(type="IVF_FLAT", nprobe=10_000)],
    "file": [
        Elsewhere("Flat"),
        Elsewhere("IDMap,HNSW8", search="efSearch=64"),
        Elsewhere("Flat", l2=True),
        Elsewhere("SQ8"),
    ],
    "bm25": [BM25()],
    "hybrid": [Hybrid(), Hybrid(dense=IVF(nprobe=3), fusion="weighted")],
}
EXTRAS = {"annoy": "annoy", "milvus": "milvus_lite"}  # packages that some kinds need, and need not be there
PLAIN = {"annoy": {".json", ".npy", ".annoy"}, "milvus": {"", ".json", ".prev", ".parquet", ".idx"}}  # of their files
FEW = 100  # queries
BUILT: dict[tuple[str, int, int], BuiltIndex] = {}


@dataclass(frozen=True)
class Case:
    """An index over passages of which passage i is best for query i and unlike all others."""

    options: IndexOptions

    @cached_property
    def least(self) -> int:
        """Passages that its training needs."""
        return next(n for n in (1, 1000, 10_000) if not self.options.problems(n))

    @cached_property
    def lossy(self) -> bool:
        """Whether vectors are stored as codes, so that neither order nor scores are the true ones."""
        return self.options.needs == "vectors" and not self.build(100).exact_scores

    @property
    def is_graph(self) -> bool:
        return "HNSW" in str(getattr(self.options, "string", self.options.kind.upper()))

    def size(self, n: int) -> int:
        return max(n, self.least) if n else 0

    def content(self, n: int, repeat: int = 1) -> Sequence | Both:
        n = self.size(n)
        vectors = np.repeat(spread(n), repeat, axis=0)
        blocks = [vectors[: len(vectors) // 3], vectors[len(vectors) // 3 :]] if len(vectors) else []
        texts = [f"only word{i} here" for i in range(n) for _ in range(repeat)]
        return {"vectors": blocks, "texts": texts, "both": Both(blocks, texts)}[self.options.needs]

    def queries(self, n: int) -> np.ndarray | list[str] | Both:
        texts = [f"word{i}?" for i in range(n)]
        return {"vectors": spread(n), "texts": texts, "both": Both(spread(n), texts)}[self.options.needs]

    def load(self, folder: Path, n: int) -> BuiltIndex:
        """From ``folder``; one of both kinds may read the vectors where they lie."""
        both = self.options.needs == "both"
        return self.options.load(folder, self.content(n).vectors) if both else self.options.load(folder)

    def build(self, n: int, repeat: int = 1) -> BuiltIndex:
        """Built once for all tests; none may change it."""
        key = (self.options.model_dump_json(), self.size(n), repeat)
        if key not in BUILT:
            BUILT[key] = self.options.create(self.content(n, repeat), seed=3)
        return BUILT[key]

    def build_of(self, *blocks: np.ndarray) -> BuiltIndex:
        return self.options.create(list(blocks), 3)


@cache
def spread(n: int, dims: int = 16) -> np.ndarray:
    """Unit vectors; those of fewer are the first ones of more."""
    vectors = np.random.default_rng(0).standard_normal((n, dims)).astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    vectors.setflags(write=False)
    return vectors


def name(options: IndexOptions) -> str:
    return f"{options.kind}-{getattr(options, 'string', '')}{options.searched_by()}{getattr(options, 'lists', '')}"


KINDS = [options for examples in EXAMPLES.values() for options in examples]
VECTOR_KINDS = [options for options in KINDS if options.needs == "vectors"]


@pytest.fixture(params=KINDS, ids=name, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    if (package := EXTRAS.get(request.param.kind)) is not None:
        pytest.importorskip(package)
    return Case(request.param)


@pytest.fixture(params=VECTOR_KINDS, ids=name, scope="module")
def vector_case(request: pytest.FixtureRequest) -> Case:
    if (package := EXTRAS.get(request.param.kind)) is not None:
        pytest.importorskip(package)
    return Case(request.param)


def test_every_registered_kind_is_held_to_the_contract():
    assert set(EXAMPLES) == set(INDEXES.kinds)
    assert all(options.kind == kind for kind, examples in EXAMPLES.items() for options in examples)


def test_finds_what_is_there_best_first(case: Case):
    found = case.build(FEW).search(case.queries(FEW), 5)
    assert found.ids_QK.shape == (FEW, 5)
    kept = np.where(found.mask_QK, found.scores_QK, -np.inf)
    assert (kept[:, :-1] >= kept[:, 1:]).all()
    own = found.ids_QK == np.arange(FEW)[:, None]
    if case.lossy:
        assert own.any(axis=1).mean() > 0.25  # of thousands
    else:
        assert own[:, 0].all()


def test_k_beyond_the_corpus_is_padded_and_masked(case: Case):
    n = case.size(6)
    found = case.build(6).search(case.queries(2), n + 4)
    assert found.ids_QK.shape == (2, n + 4)
    for ids, mask in zip(found.ids_QK, found.mask_QK, strict=True):
        there = ids[mask].tolist()
        assert len(set(there)) == len(there) > 0
        assert set(there) <= set(range(n))
        if n == 6:
            assert len(there) == 6
    assert (found.ids_QK[~found.mask_QK] == -1).all()
    assert np.isneginf(found.scores_QK[~found.mask_QK]).all()
    assert np.isfinite(found.scores_QK[found.mask_QK]).all()


def test_an_empty_index_finds_nothing(case: Case, tmp_path: Path):
    index = case.build(0)
    assert index.size == 0
    index.save(tmp_path)
    for built in (index, case.load(tmp_path, 0)):
        found = built.search(case.queries(3), 4)
        assert not found.mask_QK.any()
        assert found.ids_QK.shape == (3, 4)


def test_no_queries(case: Case):
    found = case.build(50).search(case.queries(5)[:0], 3)
    assert found.ids_QK.shape == (0, 3)


def test_one_query_is_as_many(case: Case):
    index = case.build(FEW)
    many = index.search(case.queries(30), 4)
    for q in (0, 17, 29):
        one = index.search(case.queries(30)[q : q + 1], 4)
        np.testing.assert_allclose(one.scores_QK[0], many.scores_QK[q], rtol=1e-5, atol=1e-6)
        if not case.lossy:  # the same code may be that of several passages
            assert one.ids_QK[0].tolist() == many.ids_QK[q].tolist()


def test_duplicates_are_all_found_with_one_score(case: Case):
    found = case.build(20, repeat=3).search(case.queries(20), 12)
    by_score = getattr(case.options, "fusion", "") != "rrf"  # equal passages have ranks of their own
    for q, (ids, scores) in enumerate(zip(found.ids_QK.tolist(), found.scores_QK.tolist(), strict=True)):
        assert len(set(ids) - {-1}) == sum(i >= 0 for i in ids)
        of_passage: dict[int, list[float]] = {}
        for i, score in zip(ids, scores, strict=True):
            of_passage.setdefault(i // 3, []).append(score)
        for same in of_passage.values() if by_score else ():
            np.testing.assert_allclose(same, same[0], rtol=1e-5, atol=1e-6)
        if case.is_graph:  # a graph need not reach every duplicate; the best is one of them
            assert ids[0] // 3 == q
        elif not case.lossy:
            assert ids[:3] == [3 * q, 3 * q + 1, 3 * q + 2]


def test_real_ties_come_in_the_order_of_ids(vector_case: Case):
    """Integer-valued vectors: float32 is exact, so equal scores are equal however they were summed."""
    n = vector_case.size(90)
    vectors = np.random.default_rng(5).integers(-1, 2, (n, 4)).astype(np.float32)
    found = vector_case.build_of(vectors[:40], vectors[40:]).search(vectors[:30], 20)
    tied = 0
    for ids, scores in zip(found.ids_QK, found.scores_QK, strict=True):
        pairs = [(-s, i) for i, s in zip(ids.tolist(), scores.tolist(), strict=True) if i >= 0]
        assert pairs == sorted(pairs)
        tied += len(pairs) - len({s for s, _ in pairs})
    assert tied > 100


def test_of_passages_tied_at_rank_k_the_lowest_ids_are_found(vector_case: Case):
    if not getattr(vector_case.build(90), "settles_ties", True):
        pytest.skip("a graph or a forest keeps the candidates that it met first")
    n = vector_case.size(90)
    vectors = np.random.default_rng(5).integers(-1, 2, (n, 4)).astype(np.float32)
    index = vector_case.build_of(vectors)
    every = index.search(vectors[:30], n)
    for k in (1, 2, 7, 30):
        np.testing.assert_array_equal(index.search(vectors[:30], k).ids_QK, every.first(k).ids_QK)


def test_save_and_load_give_the_same_result(case: Case, tmp_path: Path):
    index = case.build(FEW)
    index.save(tmp_path / "index")
    again = case.load(tmp_path / "index", FEW)
    before, after = index.search(case.queries(40), 7), again.search(case.queries(40), 7)
    np.testing.assert_array_equal(before.ids_QK, after.ids_QK)
    np.testing.assert_array_equal(before.scores_QK, after.scores_QK)
    assert again.size == case.size(FEW)
    assert again.stats() == index.stats()


def test_saved_files_hold_no_pickle(case: Case, tmp_path: Path):
    case.build(40).save(tmp_path)
    assert {f.suffix for f in tmp_path.rglob("*") if f.is_file()} <= PLAIN.get(
        case.options.kind, {".json", ".npy", ".faiss", ".ivfdata"}
    )


def test_a_build_repeats_itself(case: Case):
    first, second = (case.options.create(case.content(200), 3).search(case.queries(50), 6) for _ in range(2))
    np.testing.assert_array_equal(first.ids_QK, second.ids_QK)
    np.testing.assert_array_equal(first.scores_QK, second.scores_QK)


def test_loading_nothing_says_where(case: Case, tmp_path: Path):
    with pytest.raises(DataError, match=str(tmp_path)):
        case.load(tmp_path, FEW)


def test_stats_are_plain_and_count(case: Case):
    stats = case.build(64).stats()
    assert stats["passages"] == case.size(64)
    assert stats["bytes"] > 0
    assert stats["reproducible"] is True
    assert "build_flops" in stats
    assert stats["build_flops"] is not None or stats["build_flops_reason"]


def test_how_vectors_were_stored_does_not_matter(vector_case: Case):
    vectors, asked = spread(vector_case.size(150)), spread(40)
    one = vector_case.build_of(vectors).search(asked, 5)
    many = vector_case.build_of(vectors[:1], vectors[1:70], vectors[70:70], vectors[70:]).search(asked, 5)
    np.testing.assert_array_equal(one.ids_QK, many.ids_QK)
    np.testing.assert_array_equal(one.scores_QK, many.scores_QK)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_dtypes_and_memory_orders(vector_case: Case, dtype: type):
    n = vector_case.size(FEW)
    vectors, asked = spread(n).astype(dtype), spread(10).astype(dtype)
    expected = vector_case.build_of(vectors.astype(np.float32)).search(asked.astype(np.float32), 4)
    wide = np.zeros((n, 32), dtype)
    wide[:, ::2] = vectors
    for stored in (np.asfortranarray(vectors), wide[:, ::2]):
        found = vector_case.build_of(stored).search(np.asfortranarray(asked), 4)
        np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_vectors_are_refused_with_their_row(vector_case: Case, bad: float):
    vectors = spread(vector_case.size(FEW)).copy()
    vectors[83, 2] = bad
    with pytest.raises(DataError, match="passage 83 "):
        vector_case.build_of(vectors[:50], vectors[50:])
    with pytest.raises(DataError, match="query 83 "):
        vector_case.build(FEW).search(vectors[:90], 2)


def test_queries_of_another_width_are_refused(vector_case: Case):
    with pytest.raises(DataError, match="one encoder"):
        vector_case.build(50).search(np.ones((2, 5)), 1)


def test_scores_are_true_inner_products_or_said_not_to_be(vector_case: Case):
    n = vector_case.size(200)
    vectors = spread(n) * np.linspace(0.8, 1.2, n, dtype=np.float32)[:, None]
    asked = 5 * spread(20)[::-1]
    built = vector_case.build_of(vectors)
    found = built.search(asked, 6)
    expected = np.einsum("qd,qkd->qk", asked, vectors[found.ids_QK])
    if built.exact_scores:
        np.testing.assert_allclose(found.scores_QK, expected, rtol=1e-5, atol=1e-5)
    else:  # of the size of inner products all the same, higher being better
        assert np.corrcoef(found.scores_QK.ravel(), expected.ravel())[0, 1] > 0.2
        assert np.abs(found.scores_QK - expected).mean() < 2.5


def test_full_search_equals_exact_search(vector_case: Case):
    if vector_case.lossy:
        pytest.skip("codes are no vectors")
    vectors, asked = spread(300), spread(310)[300:]
    built = vector_case.build_of(vectors)
    if vector_case.options.dial is not None:
        built.turn(vector_case.options.dial_values(300, 10)[-1])
    assert recall_against(built.search(asked, 10), exact_topk(asked, [vectors], 10), 10, True) == 1.0

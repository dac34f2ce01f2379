"""An index over a whole corpus, held to its first passages."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_exp.retrieval.annoy_index import Annoy
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.factory import IVFPQ, OPQ, PQ, SQ, Factory, FastScan, RaBitQ
from rag_exp.retrieval.flat import Flat
from rag_exp.retrieval.hnsw import HNSW
from rag_exp.retrieval.ivf import IVF
from rag_exp.retrieval.milvus_index import Milvus
from rag_exp.retrieval.recall import recall_against
from rag_exp.retrieval.rescore import rescored
from rag_exp.retrieval.topk import Reference, search_topk

SELECT = [
    IVF(nprobe=4),
    IVF(nprobe=4, lists="disk"),
    HNSW(),
    SQ(),
    IVFPQ(search="nprobe=4"),
    FastScan(search="nprobe=4"),
    RaBitQ(search="nprobe=4"),
    Factory(string="Flat"),
    Factory(string="RaBitQ"),
    Factory(string="HNSW16_SQ8"),
    Factory(string="PCA16,IVF16_HNSW8,SQ8", search="nprobe=4"),
    Factory(string="IVF16,RaBitQfs", search="nprobe=4"),
    Factory(string="L2norm,IVF16,Flat", metric="l2", search="nprobe=4"),
]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Clusters, on which approximate search has something to go by."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 32))
    found = (centres[rng.integers(40, size=12_000)] + 0.5 * rng.normal(size=(12_000, 32))).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def named(options):
    return f"{options.kind}-{getattr(options, 'string', '')}-{getattr(options, 'lists', '')}"


@pytest.mark.parametrize("options", SELECT, ids=named)
def test_only_rows_of_the_prefix_are_found(options, vectors: np.ndarray, tmp_path: Path):
    """Selecting everything is searching as ever; selecting a part finds as much of it as the whole finds of all."""
    assert options.selects
    index, queries = options.create([vectors], seed=1), vectors[::120]
    before = index.search(queries, 10)
    index.select(len(vectors))
    after = index.search(queries, 10)
    np.testing.assert_array_equal(after.ids_QK, before.ids_QK)
    np.testing.assert_array_equal(after.scores_QK, before.scores_QK)
    index.save(tmp_path)
    again = options.load(tmp_path)
    again.select(3000)
    found = again.search(queries, 10)
    assert found.ids_QK[found.mask_QK].max() < 3000
    exact, whole = (exact_topk(queries, [vectors[:n]], 10) for n in (3000, 12_000))
    share, of_all = recall_against(found, exact, 10, False), recall_against(before, whole, 10, False)
    assert (share or 0) > (of_all or 0) - 0.1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), first=st.integers(1, 60), k=st.integers(1, 12), kind=st.sampled_from(["flat", "ivf"]))
def test_looking_everywhere_is_exact_search_of_the_prefix(seed: int, first: int, k: int, kind: str):
    """On small integers float32 is exact and ties are real; ids too are those of the prefix."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-2, 3, size=(60, 3)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(5, 3)).astype(np.float32)
    options = IVF(nlist=1) if kind == "ivf" else Factory(string="Flat")
    index = options.create([rows], seed=0)
    index.select(first)
    found, exact = index.search(queries, k), exact_topk(queries, [rows[:first]], k)
    np.testing.assert_array_equal(found.ids_QK, exact.ids_QK)
    np.testing.assert_array_equal(found.scores_QK, exact.scores_QK)


def test_comparisons_are_those_with_the_prefix(vectors: np.ndarray):
    flat, lists = Factory(string="Flat").create([vectors], 0), IVF(nlist=16, nprobe=16).create([vectors], 0)
    for index, centroids in ((flat, 0), (lists, 16)):
        index.select(3000)
        index.search(vectors[:7], 5)
        # a tie at rank k is no comparison more
        assert index.distances == 7 * (3000 + centroids)


def test_facts_of_recall_are_of_the_prefix(vectors: np.ndarray, tmp_path: Path):
    prefix = [vectors[:3000]]
    index = IVF(nlist=16, nprobe=16).create([vectors], 0)
    index.select(3000)
    exact = exact_topk(vectors[:20], prefix, 5)
    stats = search_topk(index, vectors[:20], 5, tmp_path, Reference(exact, prefix))
    assert stats["recall"]["5"] == 1.0


def test_candidates_are_rescored_within_the_prefix(vectors: np.ndarray):
    options = FastScan(rescore=20, search="nprobe=64")
    index = options.create([vectors], 0)
    index.select(3000)
    found = rescored(index, options, [vectors[:3000]]).search(vectors[:30], 5)
    exact = exact_topk(vectors[:30], [vectors[:3000]], 5)
    assert (recall_against(found, exact, 5, True) or 0) > 0.9


def test_the_dial_turns_after_the_selection(vectors: np.ndarray):
    index = IVF(nlist=16, nprobe=1).create([vectors], 0)
    index.select(3000)
    index.search(vectors[:9], 5)
    few = index.distances
    index.turn(16)
    index.search(vectors[:9], 5)
    assert few < index.distances == 9 * 3016


def test_a_rotation_hides_no_lists():
    assert OPQ().selects


@pytest.mark.parametrize(
    "string",
    ["PQ{m}", "PQ{m}x4fs", "RaBitQfs", "NSG16", "NSG16,Flat", "OPQ{m}_{dims},PQ{m}", "IVF{nlist},PQ{m},RFlat",
     "PQ{m},RFlat", "IVF16,PQ8,Refine(SQ8)", "RQ4x8", "LSQ4x8", "LSH"],
)  # fmt: skip
def test_what_faiss_holds_to_no_selection(string: str):
    assert not Factory(string=string).selects
    assert not any(options.selects for options in (PQ(), Annoy(), Milvus()))
    assert Flat().selects

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.index import BuiltIndex, VectorIndexOptions
from rag_exp.retrieval.indexes import HNSW, IVF, IVFPQ, PQ, SQ, FastScan, Flat, RaBitQ
from rag_exp.retrieval.recall import recall_against
from rag_exp.retrieval.rescore import RescoredIndex, rescored
from rag_exp.retrieval.results import SearchResult
from rag_exp.retrieval.topk import search_topk
from rag_exp.retrieval.tuning import tune


def clustered(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((30, 32))
    vectors = centres[rng.integers(30, size=n)] + 0.5 * rng.standard_normal((n, 32))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS, ASKED = clustered(2000), clustered(80, seed=1)
BLOCKS = [VECTORS[:900], VECTORS[900:]]
LOSSY = [
    PQ(string="PQ{m}x4np"),
    IVFPQ(string="IVF{nlist},PQ{m}x4np", search="nprobe=16"),
    FastScan(search="nprobe=16"),
    RaBitQ(search="nprobe=16"),
    SQ(string="SQ4"),
]


def name(options: VectorIndexOptions) -> str:
    return options.kind


@pytest.mark.parametrize("options", [*LOSSY, IVF(nprobe=2), HNSW(m=4)], ids=name)
def test_the_best_of_the_candidates_by_their_own_vectors(options: VectorIndexOptions):
    """By hand: four times as many are found, scored by inner product, and the best k of those kept."""
    built = options.create(BLOCKS, 3)
    found = rescored(built, options.model_copy(update={"rescore": 4}), BLOCKS).search(ASKED, 5)
    candidates = built.search(ASKED, 20)
    for q, query in enumerate(ASKED):
        ids = candidates.ids_QK[q][candidates.mask_QK[q]]
        scores = VECTORS[ids] @ query
        best = sorted(zip(-scores, ids, strict=True))[:5]
        np.testing.assert_allclose(found.scores_QK[q], [-s for s, _ in best], rtol=1e-5)
        assert set(found.ids_QK[q].tolist()) == {int(i) for _, i in best}


@pytest.mark.parametrize("options", LOSSY, ids=name)
def test_recall_rises_with_the_factor_up_to_that_of_the_search_itself(options: VectorIndexOptions):
    built, exact = options.create(BLOCKS, 3), exact_topk(ASKED, BLOCKS, 10)
    recalls = [recall_against(built.search(ASKED, 10), exact, 10, False)]
    for factor in (1, 4, 200):
        found = RescoredIndex(built, BLOCKS, factor).search(ASKED, 10)
        recalls.append(recall_against(found, exact, 10, True))
    assert recalls[0] == pytest.approx(recalls[1], abs=0.05)  # the same passages; here ties count as found
    assert recalls[1] < recalls[2] < recalls[3]
    assert recalls[3] > 0.99


def test_what_it_costs_is_counted(tmp_path: Path):
    options = IVF(nlist=16, nprobe=4, rescore=3)
    built = options.create(BLOCKS, 3)
    index = rescored(built, options, BLOCKS)
    index.search(ASKED, 5)
    assert index.rescored == 80 * 15
    assert index.distances == built.distances + 80 * 15
    stats = search_topk(index, ASKED, 5, tmp_path)
    assert stats["rescored"] == 80 * 15
    plain = search_topk(built, ASKED, 5, tmp_path)
    assert plain["rescored"] == 0
    assert stats["distances"] == plain["distances"] + 80 * 15
    assert index.exact_scores
    assert index.stats() == built.stats()


def test_more_candidates_than_passages_are_all_of_them():
    options = SQ(rescore=50)
    index = rescored(options.create([VECTORS[:7]], 0), options, [VECTORS[:7]])
    found, exact = index.search(ASKED, 5), exact_topk(ASKED, [VECTORS[:7]], 5)
    np.testing.assert_array_equal(found.ids_QK, exact.ids_QK)
    assert index.rescored == 80 * 7
    empty = rescored(options.create([], 0), options, [])
    assert not empty.search(ASKED, 5).mask_QK.any()


def test_it_is_part_of_the_search_and_only_where_it_is_asked_for():
    assert IVF(rescore=4).searched_by() == {"nprobe": 8, "rescore": 4}
    assert IVF().searched_by() == {"nprobe": 8}
    assert IVF(rescore=4).identity("rag_exp:search") == IVF().identity("rag_exp:search")
    assert Flat(rescore=4).searched_by() == {}
    flat = Flat(rescore=4).create(BLOCKS, 0)
    assert rescored(flat, Flat(rescore=4), BLOCKS) is flat


@pytest.mark.parametrize("target", [0.9, 0.99])
def test_where_every_code_is_compared_the_factor_is_what_is_tuned(target: float):
    options = PQ(string="PQ{m}x4np", mode="iso_recall", recall_target=target)
    index = rescored(options.create(BLOCKS, 3), options, BLOCKS)
    exact = exact_topk(ASKED, BLOCKS, 10)
    tuned = tune(index, options, ASKED, exact, 10)
    assert (tuned.dial, tuned.reached) == ("rescore", True)
    assert tuned.value > 1

    def recall(found: SearchResult) -> float:
        return recall_against(found, exact, 10, True)

    index.turn(tuned.value)
    assert recall(index.search(ASKED, 10)) == tuned.recall >= target
    index.turn(tuned.value - 1)
    assert recall(index.search(ASKED, 10)) < target
    assert options.searched_by() == {"search": ""}


def test_lists_are_tuned_behind_the_rescoring():
    exact = exact_topk(ASKED, BLOCKS, 10)

    def tuned(**more: int):
        options = IVFPQ(string="IVF{nlist},PQ{m}x4np", mode="iso_recall", recall_target=0.95, **more)
        index: BuiltIndex = rescored(options.create(BLOCKS, 3), options, BLOCKS)
        return tune(index, options, ASKED, exact, 10)

    assert not tuned().reached
    assert tuned(rescore=20).reached

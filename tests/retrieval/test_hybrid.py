from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.core.errors import DataError
from rag_exp.retrieval.hybrid import Both, Hybrid, by_rank, fuse, to_unit
from rag_exp.retrieval.index import VectorIndexOptions
from rag_exp.retrieval.indexes import BM25, HNSW, INDEXES, IVF, SQ, Flat
from rag_exp.retrieval.results import SearchResult

COLOURS = ["red", "green", "blue", "grey"]
TEXTS = [f"{colour} thing{i}" for i, colour in enumerate(COLOURS * 25)]
VECTORS = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
CONTENT = Both([VECTORS[:30], VECTORS[30:]], TEXTS)
ASKED = Both(np.random.default_rng(1).standard_normal((6, 8)), ["red", "thing17 green", "blue", "thing3", "none", ""])


def ranking(*ids: int, scores: list[float] | None = None) -> SearchResult:
    given_scores = scores or [float(len(ids) - i) for i in range(len(ids))]
    return SearchResult.of(np.array([ids]), np.array([given_scores]), len(ids))


def test_reciprocal_ranks_by_hand():
    """Cormack et al. 2009, eq. 1, with c = 60."""
    one, other = ranking(7, 2, 5), ranking(5, 9, 7)
    found = fuse(one, other, by_rank(one, 60), by_rank(other, 60), 4)
    wanted = {7: 1 / 61 + 1 / 63, 2: 1 / 62, 5: 1 / 63 + 1 / 61, 9: 1 / 62}
    assert found.ids_QK[0].tolist() == [5, 7, 2, 9]  # two pairs of equal score, each in the order of ids
    np.testing.assert_allclose(found.scores_QK[0], [wanted[i] for i in [5, 7, 2, 9]], rtol=1e-6)


def test_weighted_scores_by_hand():
    one, other = ranking(1, 2, 3, scores=[9.0, 6.0, 5.0]), ranking(3, 4, scores=[0.4, 0.2])
    found = fuse(one, other, 0.75 * to_unit(one), 0.25 * to_unit(other), 4)
    assert found.ids_QK[0].tolist() == [1, 3, 2, 4]
    np.testing.assert_allclose(found.scores_QK[0], [0.75, 0.25, 0.75 * 0.25, 0.0], atol=1e-7)


@given(
    one=st.lists(st.integers(0, 12), unique=True, max_size=8),
    other=st.lists(st.integers(0, 12), unique=True, max_size=8),
    k=st.integers(1, 20),
)
def test_any_two_rankings(one: list[int], other: list[int], k: int):
    """Against a dictionary; places without a passage add nothing."""
    pads = [ranking(*ids, *([-1] * (8 - len(ids)))) for ids in (one, other)]
    found = fuse(*pads, *(by_rank(r, 3) for r in pads), k)
    scores: dict[int, float] = {}
    for ids in (one, other):
        for rank, i in enumerate(ids, 1):
            scores[i] = scores.get(i, 0.0) + 1 / (3 + rank)
    wanted = sorted(scores, key=lambda i: (-np.float32(scores[i]), i))[:k]
    there = found.ids_QK[0][found.mask_QK[0]].tolist()
    np.testing.assert_allclose([scores[i] for i in there], [scores[i] for i in wanted], rtol=1e-6)
    assert len(there) == len(wanted) == len(set(there))


def test_it_is_the_fusion_of_what_both_find():
    options = Hybrid(candidates=20)
    found = options.create(CONTENT, 0).search(ASKED, 5)
    dense = Flat().create(CONTENT.vectors, 0).search(ASKED.vectors, 20)
    lexical = BM25().create(TEXTS, 0).search(ASKED.texts, 20)
    for q in range(len(ASKED)):
        scores: dict[int, float] = {}
        shared = [i for i, s in zip(lexical.ids_QK[q].tolist(), lexical.scores_QK[q], strict=True) if s > 0]
        for ids in (dense.ids_QK[q].tolist(), shared):
            for rank, i in enumerate(ids, 1):
                scores[i] = scores.get(i, 0.0) + 1 / (60 + rank)
        best = sorted(scores.values(), reverse=True)[:5]
        np.testing.assert_allclose(found.scores_QK[q], best, rtol=1e-6)


def test_the_weight_goes_from_one_ranking_to_the_other():
    dense = Flat().create(CONTENT.vectors, 0).search(ASKED.vectors, 1)
    only_dense, only_lexical = (
        Hybrid(fusion="weighted", weight=w).create(CONTENT, 0).search(ASKED, 1).ids_QK[:, 0] for w in (1.0, 0.0)
    )
    assert only_dense.tolist() == dense.ids_QK[:, 0].tolist()
    assert [COLOURS[i % 4] for i in only_lexical[[0, 2]]] == ["red", "blue"]
    assert only_lexical[3] == 3


def test_a_question_whose_words_are_nowhere_is_answered_by_the_dense_index_alone():
    found = Hybrid().create(CONTENT, 0).search(ASKED[4:6], 3)
    dense = Flat().create(CONTENT.vectors, 0).search(ASKED.vectors[4:6], 3)
    np.testing.assert_array_equal(found.ids_QK, dense.ids_QK)


def test_every_kind_over_vectors_can_be_the_dense_one():
    for kind, cls in INDEXES.kinds.items():
        if issubclass(cls, VectorIndexOptions) and not cls.made_elsewhere:
            more = {"string": "IVF1,Flat"} if kind == "factory" else {}
            assert Hybrid(dense={"kind": kind, **more}).dense.kind == kind


def test_what_identifies_it():
    one, other = Hybrid(dense=IVF(nprobe=2)), Hybrid(dense=IVF(nprobe=4), candidates=7)
    assert one.identity("rag_exp:search") == other.identity("rag_exp:search")
    assert one.identity("rag_exp:search") != Hybrid(dense=IVF(nlist=4)).identity("rag_exp:search")
    assert one.identity("rag_exp:search") != Hybrid(dense=IVF(), lexical=BM25(k1=2)).identity("rag_exp:search")
    assert one.searched_by() == {"fusion": "rrf", "rrf_c": 60.0, "candidates": 100, "dense": {"nprobe": 2}}
    assert Hybrid(weight=0.1).searched_by() == Hybrid().searched_by()  # of the other fusion
    assert Hybrid(fusion="weighted", rrf_c=1).searched_by() == Hybrid(fusion="weighted").searched_by()


def test_problems_name_the_part_they_are_of():
    (problem,) = Hybrid(dense=IVF(nlist=11)).problems(390)
    assert problem.startswith("index.dense.nlist: 11 lists need 429 passages")
    (problem,) = Hybrid(dense=IVF(mode="iso_recall")).problems(390)
    assert problem.startswith("index.dense.mode: iso_recall")


def test_a_dense_index_that_rescores(tmp_path: Path):
    options = Hybrid(dense=SQ(string="SQ4", rescore=3), candidates=10)
    built = options.create(CONTENT, 0)
    found = built.search(ASKED, 5)
    assert built.rescored == 6 * 30
    built.save(tmp_path)
    again = options.load(tmp_path, CONTENT.vectors).search(ASKED, 5)
    np.testing.assert_array_equal(again.ids_QK, found.ids_QK)


def test_parts_over_different_passages_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="100 and 99 passages"):
        Hybrid().create(Both(CONTENT.vectors, TEXTS[:99]), 0)
    Hybrid(dense=HNSW()).create(CONTENT, 0).save(tmp_path)
    with pytest.raises(DataError, match="the dense part holds 30 of 100"):
        Hybrid().load(tmp_path, CONTENT.vectors[:1])

"""Which documents are near the questions: rankings by BM25 or by vectors, fused by document."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_exp.core.errors import DataError
from rag_exp.retrieval import nearness
from rag_exp.retrieval.nearness import by_bm25, by_vectors

TEXTS = [("", "apple tree"), ("", "apple apple"), ("", "stone wall"), ("", "river bed"), ("", "pear tree")]
ENDS = np.array([2, 3, 4, 5])  # the first document has two passages


def test_one_question_ranks_documents_by_their_best_passage():
    """ "apple" finds both passages of the first document, which has one rank of the two."""
    assert by_bm25(["apple"], TEXTS, ENDS) == pytest.approx([1 / 61, 0, 0, 0])
    assert by_bm25(["tree"], TEXTS, ENDS) == pytest.approx([1 / 61, 0, 0, 1 / 62])  # tied: the first passage first


def test_rankings_are_fused():
    found = by_bm25(["tree", "pear", "river", "nothing of it"], TEXTS, ENDS)
    assert found == pytest.approx([1 / 61, 0, 1 / 61, 1 / 62 + 1 / 61])
    assert found.argsort()[::-1][0] == 3


def test_only_so_many_passages_are_ranked():
    assert by_bm25(["tree"], TEXTS, ENDS, depth=1) == pytest.approx([1 / 61, 0, 0, 0])


def test_no_questions_and_no_words_are_no_nearness():
    assert by_bm25([], TEXTS, ENDS).tolist() == [0] * 4
    assert by_bm25(["apple"], [("", "")] * 5, ENDS).tolist() == [0] * 4


WORDS = st.lists(st.sampled_from(["ash", "birch", "cedar", "elm", "fir"]), min_size=1, max_size=4).map(" ".join)


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(WORDS, min_size=1, max_size=12), questions=st.lists(WORDS, min_size=1, max_size=6), data=st.data()
)
def test_the_order_of_the_questions_changes_nothing(texts, questions, data):
    passages, ends = [("", text) for text in texts], np.arange(1, len(texts) + 1)
    found = by_bm25(questions, passages, ends)
    assert found.tolist() == by_bm25(data.draw(st.permutations(questions)), passages, ends).tolist()
    shares = [any(set(text.split()) & set(q.split()) for q in questions) for text in texts]
    assert (found > 0).tolist() == shares


def test_vectors_rank_documents_by_their_best_passage():
    """The question ranks passages 1, 3, 0, 4, 2, so documents 0, 2, 3, 1; all of them are found."""
    rows = np.array([[3, 0], [5, 1], [0, 2], [4, 0], [1, 0]], np.float32)
    found = by_vectors(np.array([[1, 0]], np.float32), [rows[:2], rows[2:]], ENDS)
    assert found == pytest.approx([1 / 61, 1 / 64, 1 / 62, 1 / 63])
    both = by_vectors(np.array([[1, 0], [0, 1]], np.float32), [rows], ENDS, depth=2)
    assert both == pytest.approx([1 / 61 + 1 / 62, 1 / 61, 1 / 62, 0])  # the second finds passages 2 and 1
    assert by_vectors(np.empty((0, 2), np.float32), [rows], ENDS).tolist() == [0] * 4


def test_of_equally_near_documents_the_first_ranks_first():
    rows = np.ones((5, 2), np.float32)
    assert by_vectors(rows[:1], [rows], ENDS, depth=3) == pytest.approx([1 / 61, 1 / 62, 0, 0])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=9), data=st.data())
def test_near_by_vectors_is_brute_force(seed, sizes, data):
    """Integers, so that float32 is exact and ties are real; however blocks and questions are cut."""
    rng, ends = np.random.default_rng(seed), np.cumsum(sizes)
    rows = rng.integers(-2, 3, size=(ends[-1], 3)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(data.draw(st.integers(1, 7)), 3)).astype(np.float32)
    depth, cut = data.draw(st.integers(1, 12)), data.draw(st.integers(0, int(ends[-1])))
    expected = np.zeros(len(sizes))
    for query in queries:
        best = np.argsort(-(rows @ query), kind="stable")[:depth]
        for rank, document in enumerate(dict.fromkeys(np.searchsorted(ends, best, side="right").tolist())):
            expected[document] += 1 / (61 + rank)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearness, "_VECTORS", data.draw(st.integers(1, 5)))
        found = by_vectors(data.draw(st.permutations(list(queries))), [rows[:cut], rows[cut:]], ends, depth)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_vector_that_is_not_finite_is_named():
    rows = np.ones((5, 2), np.float32)
    rows[3, 1] = np.nan
    with pytest.raises(DataError, match="vector of passage 3 holds NaN"):
        by_vectors(np.ones((1, 2), np.float32), [rows[:2], rows[2:]], ENDS)

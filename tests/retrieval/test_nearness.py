"""Which documents are near the questions: rankings by BM25, fused by document."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_exp.retrieval.nearness import by_bm25

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

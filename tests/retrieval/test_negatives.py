from __future__ import annotations

import numpy as np

from rag_exp.retrieval.negatives import from_document, from_search, without_answers
from rag_exp.retrieval.results import SearchResult


def test_from_search_leaves_gold_out_and_keeps_the_order():
    found = SearchResult.of(np.array([[0, 2, 1, 3], [3, 1, -1, -1]]), np.array([[4, 3, 2, 1], [2, 1, 0, 0]]), 4)
    pool = np.array([10, 20, 30, 40])
    assert from_search(found, pool, [[30], [40, 77]], 2).tolist() == [[10, 20], [20, -1]]


def test_from_document_takes_other_passages_of_the_golds_document():
    ends = np.array([3, 4, 9])
    rows = from_document([[1], [3], [5, 6]], ends, 4, seed=0)
    assert sorted(rows[0].tolist()) == [-1, -1, 0, 2]
    assert rows[1].tolist() == [-1] * 4
    assert sorted(rows[2].tolist()) == [-1, 4, 7, 8]
    assert from_document([[1], [3], [5, 6]], ends, 4, seed=0).tolist() == rows.tolist()
    many = from_document([[50]] * 20, np.array([100]), 3, seed=0)
    assert len({tuple(r) for r in many.tolist()}) > 1  # each question draws its own


def test_without_answers(toy):
    class Table:
        doc_ends = np.array([3])

        def __len__(self) -> int:
            return 3

        def texts(self, rows):
            return [("t", ["It has 40 ports.", "Forty ships", "40000 men"][r]) for r in rows]

    rows = np.array([[0, 1, 2, -1], [1, 2, -1, -1]])
    assert without_answers(rows, [["40"], ["the ships", "x"]], Table()).tolist() == [[-1, 1, 2, -1], [-1, 2, -1, -1]]

from __future__ import annotations

import numpy as np
import pytest

from rag_exp.retrieval.recall import gold_hits, recall_against
from rag_exp.retrieval.results import SearchResult


def of(ids: list[list[int]], scores: list[list[float]]) -> SearchResult:
    return SearchResult.of(np.array(ids), np.array(scores), len(ids[0]))


EXACT = of([[1, 2, 3], [4, 5, 6]], [[3, 2, 1], [3, 2, 1]])


def test_counts_the_share_found():
    found = of([[1, 3, 9], [7, 8, 9]], [[3, 1, 0.5], [0.3, 0.2, 0.1]])
    assert recall_against(found, EXACT, 3, True) == pytest.approx((2 / 3 + 0) / 2)
    assert recall_against(found, EXACT, 1, True) == pytest.approx(0.5)


def test_a_tie_with_the_last_counts_as_found_only_where_scores_are_exact():
    found = of([[1, 2, 30], [4, 5, 6]], [[3, 2, 1], [3, 2, 1]])
    assert recall_against(found, EXACT, 3, True) == 1.0
    assert recall_against(found, EXACT, 3, False) == pytest.approx((2 / 3 + 1) / 2)


def test_scores_that_differ_by_rounding_tie():
    found = of([[1, 2, 30], [4, 5, 6]], [[3, 2, 1 - 5e-6], [3, 2, 1]])
    assert recall_against(found, EXACT, 3, True) == 1.0
    worse = of([[1, 2, 30], [4, 5, 6]], [[3, 2, 1 - 5e-4], [3, 2, 1]])
    assert recall_against(worse, EXACT, 3, True) < 1.0


def test_a_small_corpus_is_measured_by_what_it_holds():
    exact = of([[1, 2, -1]], [[3, 2, 0]])
    assert recall_against(of([[1, 2, -1]], [[3, 2, 0]]), exact, 3, True) == 1.0
    assert recall_against(of([[1, -1, -1]], [[3, 0, 0]]), exact, 3, True) == 0.5


def test_nothing_to_find_is_none():
    empty = SearchResult.empty(2, 3)
    assert recall_against(empty, empty, 3, True) is None
    assert recall_against(SearchResult.empty(0, 3), SearchResult.empty(0, 3), 3, True) is None


def test_gold_hits():
    assert gold_hits(EXACT, [[3], [9, 5]], 2).tolist() == [False, True]
    assert gold_hits(EXACT, [[3], []], 3).tolist() == [True, False]
    assert gold_hits(SearchResult.empty(1, 2), [[4]], 2).tolist() == [False]

"""Ranking metrics against hand-computed values and their definitions."""

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.core.errors import DataError
from rag_exp.evaluation.ranking import (
    RANKING,
    average_precision,
    gains_of,
    ndcg,
    ranking_metrics,
    read_rankings,
    write_rankings,
)


def test_ndcg_of_a_small_case():
    # Grades 3, 2, 1 are relevant; the search ranks the 1 first, misses the 2, and puts the 3 third.
    found = 1 / math.log2(2) + 3 / math.log2(4)
    best = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert ndcg([1, 0, 3, 0], [3, 2, 1], 10) == pytest.approx(found / best, abs=1e-12)
    assert ndcg([1, 0, 3, 0], [3, 2, 1], 2) == pytest.approx(1 / (3 + 2 / math.log2(3)), abs=1e-12)


def test_average_precision_counts_what_was_not_found():
    assert average_precision([1, 0, 1, 0], 2) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision([1, 0, 1, 0], 4) == pytest.approx((1 + 2 / 3) / 4)
    assert average_precision([0, 0], 3) == 0.0


def test_a_split_gold_passage_counts_once_at_its_best_rank():
    assert gains_of([7, 3, 4, 9], gold=[3, 4, 9], gold_of=[0, 0, 1], grades=[2.0, 1.0]) == [0.0, 2.0, 0.0, 1.0]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5).filter(any))
def test_the_ideal_order_has_an_ndcg_of_one_and_no_other_has_more(grades):
    values = [ndcg(order, grades, len(grades)) for order in permutations(grades)]
    assert max(values) == pytest.approx(1.0)
    assert ndcg(sorted(grades, reverse=True), grades, len(grades)) == pytest.approx(1.0)


def row(**changes):
    return {
        "id": "q",
        "question": "which?",
        "template": "",
        "hops": 1,
        "answers": [],
        "rows": [5, 2, 8],
        "scores": [3.0, 2.0, 1.0],
        "gold": [2, 9],
        "gold_of": [0, 1],
        "grades": [1.0, 2.0],
        "gold_in_corpus": True,
        "answer_found": None,
    } | changes


def metrics(tmp_path, rows, k=3):
    written = write_rankings(rows, tmp_path)
    assert read_rankings(tmp_path).equals(written)
    return ranking_metrics(written, k)


def test_metrics_of_one_question(tmp_path):
    values, nulls = metrics(tmp_path, [row()])
    assert list(values) == list(RANKING)
    expected = {
        "gold_recall@1": 0.0,
        "gold_recall@k": 1.0,  # any one gold passage is enough for one hop
        "relevant_recall@k": 0.5,
        "precision@k": 1 / 3,
        "mrr": 0.5,
        "map@k": 0.25,
        "ndcg@k": (1 / math.log2(3)) / (2 + 1 / math.log2(3)),
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert "only 3 passages" in nulls["ndcg@10"]
    assert values["ndcg@10"] is None
    assert nulls["answer_coverage"] == "the questions have no answers to look for"


def test_questions_without_gold_are_left_out_of_means(tmp_path):
    bare = row(gold=[], gold_of=[], grades=[], gold_in_corpus=None, answers=["x"], answer_found=True)
    values, _ = metrics(tmp_path, [row(), bare])
    assert (values["questions"], values["mrr"], values["answer_coverage"]) == (2.0, 0.5, 1.0)
    values, nulls = metrics(tmp_path, [bare])
    assert values["mrr"] is None
    assert nulls["mrr"] == "the questions have no gold passages"


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DataError, match="no readable rankings"):
        read_rankings(tmp_path)

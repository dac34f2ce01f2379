"""Numbered points."""

from rag_exp.data.factbook import FactbookCorpus
from rag_exp.data.points import PointsCorpus, PointsQuestions


def test_points_are_documents_of_their_own():
    corpus = PointsCorpus(points=3)
    assert [(d.id, d.passages[0].text) for d in corpus.documents()] == [("0", "0"), ("1", "1"), ("2", "2")]
    assert corpus.count() == 3


def test_queries_have_numbers_and_no_answers():
    (one,) = PointsQuestions(queries=1, tuning=0).questions()
    assert (one.id, one.question, one.answers, one.gold_ids) == ("query 0", "0", (), ())


def test_points_are_asked_of_points():
    assert PointsQuestions().misfits(PointsCorpus()) == []
    assert "corpus=points" in PointsQuestions().misfits(FactbookCorpus())[0]


def test_points_have_no_words_and_no_gold_to_be_put_in_order_by():
    assert PointsCorpus().problems() == []
    assert PointsCorpus(distractors="bm25").problems() == [
        "corpus.distractors: bm25: points have no words to be near by; use any."
    ]
    (problem,) = PointsCorpus(growth="distractor", distractors="bm25").problems()
    assert problem.startswith("corpus.growth: distractor: no query of points has gold")


def test_further_queries_tune_and_are_not_asked():
    found = [(q.id, q.split) for q in PointsQuestions(queries=1, tuning=2).questions()]
    assert found == [("query 0", "dev"), ("query 1", "train"), ("query 2", "train")]
    assert PointsQuestions().problems() == []
    assert PointsQuestions(split="train").problems()[0].startswith("questions.split: train:")
    assert PointsQuestions(split="train", tuning=0).problems() == []

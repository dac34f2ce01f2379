"""Numbered points."""

from rag_exp.data.factbook import FactbookCorpus
from rag_exp.data.points import PointsCorpus, PointsQuestions


def test_points_are_documents_of_their_own():
    corpus = PointsCorpus(points=3)
    assert [(d.id, d.passages[0].text) for d in corpus.documents()] == [("0", "0"), ("1", "1"), ("2", "2")]
    assert corpus.count() == 3


def test_queries_have_numbers_and_no_answers():
    (one,) = PointsQuestions(queries=1).questions()
    assert (one.id, one.question, one.answers, one.gold_ids) == ("query 0", "0", (), ())


def test_points_are_asked_of_points():
    assert PointsQuestions().misfits(PointsCorpus()) == []
    assert "corpus=points" in PointsQuestions().misfits(FactbookCorpus())[0]

"""Test collections as TREC and BEIR publish them."""

import json
from pathlib import Path

import pytest

from rag_exp.core.errors import DataError
from rag_exp.data.judged import JudgedQuestions, TrecCorpus

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "cranfield"
QRELS = "1 0 a 2\n1 0 b 0\n2 0 b 1\n"


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.fixture
def qrels(tmp_path):
    return write(tmp_path, "qrels.txt", QRELS)


def asked(queries: str, qrels: str, **more):
    return list(JudgedQuestions(queries=queries, qrels=qrels, **more).questions())


TOPICS = "<top>\n<num> 1</num>\n<title>\nwing &amp;\nflow\n</title>\n</top><top><num>Number: 2\n<title> drag\n</top>"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.xml", TOPICS),
        ("q.tsv", "1\twing & flow\n2\tdrag\n"),
        ("q.jsonl", "\n".join(json.dumps({"_id": i, "text": t}) for i, t in (("1", "wing & flow"), ("2", "drag")))),
    ],
)
def test_three_forms_of_queries_say_the_same(tmp_path, qrels, name, text):
    one, two = asked(write(tmp_path, name, text), qrels)
    assert (one.id, one.question, one.gold_ids, one.grades, one.answers) == ("1", "wing & flow", ("a",), (2.0,), ())
    assert (two.id, two.question, two.gold_ids, two.split) == ("2", "drag", ("b",), "test")


def test_beir_judgements_have_a_head_and_three_columns(tmp_path):
    qrels = write(tmp_path, "test.tsv", "query-id\tcorpus-id\tscore\n1\ta\t2\n2\tb\t1\n")
    found = asked(write(tmp_path, "q.tsv", "1\tx\n2\ty\n3\tnobody judged it\n"), qrels)
    assert [(q.id, q.gold_ids) for q in found] == [("1", ("a",)), ("2", ("b",))]


def test_a_higher_least_grade_leaves_fewer(tmp_path, qrels):
    assert [q.id for q in asked(write(tmp_path, "q.tsv", "1\tx\n2\ty\n"), qrels, least_grade=2)] == ["1"]


def test_judgements_that_count_the_queries(tmp_path, qrels):
    queries = write(tmp_path, "q.tsv", "17\tx\n40\ty\n")
    assert [q.id for q in asked(queries, qrels, numbered="in_order")] == ["1", "2"]
    with pytest.raises(DataError, match="numbered=in_order"):
        asked(queries, qrels)


@pytest.mark.parametrize(
    ("text", "message"), [("1 0 a\t2 x 9\n", "line 1.*wanted"), ("1 0 a 2\n1 0 b high\n", "line 2.*no number")]
)
def test_broken_judgements_are_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        asked(write(tmp_path, "q.tsv", "1\tx\n"), write(tmp_path, "qrels.txt", text))


def test_trec_documents(tmp_path):
    docs = "<DOC>\n<DOCNO> a </DOCNO><TITLE>On\nwings</TITLE><TEXT>they &lt;fly&gt;</TEXT></DOC>"
    docs += "<doc><docno>b</docno></doc>"
    corpus = TrecCorpus(files=write(tmp_path, "docs.xml", docs))
    (a,), (b,) = (d.passages for d in corpus.documents())
    assert (a.id, a.title, a.text) == ("a", "On wings", "they <fly>")
    assert (b.id, b.title, b.text) == ("b", "", "")
    with pytest.raises(DataError, match="no <doc>"):
        list(TrecCorpus(files=write(tmp_path, "no.xml", "words")).documents())


def test_missing_files_are_said_before_any_work():
    assert "questions.qrels: no file" in JudgedQuestions(queries="q", qrels="r").problems()[1]
    assert "corpus.files: no file" in TrecCorpus(files="x").problems()[0]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
def test_cranfield_is_read_whole():
    corpus = list(TrecCorpus(files=str(SHARED / "cran.all.1400.xml")).documents())
    files = {"queries": str(SHARED / "cran.qry.xml"), "qrels": str(SHARED / "cranqrel.trec.txt")}
    questions = asked(files["queries"], files["qrels"], numbered="in_order")
    assert (len(corpus), len(questions)) == (1400, 225)
    assert sum(len(q.gold_ids) for q in questions) == 1612
    assert sorted({g for q in questions for g in q.grades}) == [1.0, 3.0]


def test_queries_to_tune_on_are_unjudged_ones_first_and_are_not_judged(tmp_path, qrels):
    queries = write(tmp_path, "q.tsv", "1\tx\n2\ty\n3\tnobody judged it\n")
    one, two, three = asked(queries, qrels, tuning=1)
    assert [(q.id, q.split) for q in (one, two, three)] == [("1", "test"), ("2", "test"), ("3", "train")]
    assert (three.gold_ids, three.grades) == ((), ())
    kept = asked(queries, qrels, tuning=2)
    assert sorted(q.split for q in kept) == ["test", "train", "train"]
    assert {q.id for q in kept if q.split == "train"} > {"3"}
    with pytest.raises(DataError, match=r"questions.tuning: 3 of 3 queries leaves none"):
        asked(queries, qrels, tuning=3)


def test_queries_that_tune_are_not_asked(tmp_path, qrels):
    options = JudgedQuestions(queries=write(tmp_path, "q.tsv", "1\tx\n2\ty\n"), qrels=qrels, split="train", tuning=1)
    (problem,) = options.problems()
    assert problem.startswith("questions.split: train: there are the queries of questions.tuning")


def test_without_queries_to_tune_on_the_identity_is_as_it_was(tmp_path, qrels):
    assert "tuning" not in JudgedQuestions(queries="q", qrels=qrels).identity()
    assert JudgedQuestions(queries="q", qrels=qrels, tuning=5).identity()["tuning"] == 5

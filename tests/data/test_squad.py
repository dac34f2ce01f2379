"""SQuAD's JSON: paragraphs as passages, articles as documents, questions with their paragraph as gold."""

import json
import os
from pathlib import Path

import pytest

from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.data.normalise import answer_in_text
from rag_exp.data.passages import PassageTable, Whole, write_passages
from rag_exp.data.questions import QuestionTable, write_questions
from rag_exp.data.sources import Document, Passage, Question
from rag_exp.data.squad import SquadCorpus, SquadQuestions

DATA = Path(os.environ.get("RAG_EXP_DATA", Path(__file__).parents[3] / "shared" / "data")) / "squad-v1.1-dev"


def qa(id, *answers):
    return {"id": id, "question": f" {id}? ", "answers": [{"text": a, "answer_start": 0} for a in answers]}


def squad(file, *articles):
    """``articles`` as (title, [(context, [qa, ...]), ...])."""
    data = [
        {"title": title, "paragraphs": [{"context": c, "qas": qas} for c, qas in paragraphs]}
        for title, paragraphs in articles
    ]
    file.write_text(json.dumps({"version": "1.1", "data": data}), encoding="utf-8")
    return str(file)


@pytest.fixture
def files(tmp_path):
    train = squad(
        tmp_path / "train.json",
        ("New_York", [("first ", [qa("a", "x", "y", "x")]), ("second", [qa("b", "z"), qa("c", "z")])]),
        ("Oslo", [("third", [])]),
    )
    return {"train": train, "dev": squad(tmp_path / "dev.json", ("Rome", [("fourth", [qa("d", "w")])]))}


def test_corpus_is_every_paragraph_of_every_split(files):
    corpus = SquadCorpus(files=files)
    assert list(corpus.documents()) == [
        Document("New_York", (Passage("New_York/0", "New York", "first"), Passage("New_York/1", "New York", "second"))),
        Document("Oslo", (Passage("Oslo/0", "Oslo", "third"),)),
        Document("Rome", (Passage("Rome/0", "Rome", "fourth"),)),
    ]
    assert corpus.count() == 4


def test_questions_have_their_paragraph_as_gold(files):
    assert list(SquadQuestions(files=files).questions()) == [
        Question("a", "a?", ("x", "y"), ("New_York/0",), "train"),
        Question("b", "b?", ("z",), ("New_York/1",), "train"),
        Question("c", "c?", ("z",), ("New_York/1",), "train"),
        Question("d", "d?", ("w",), ("Rome/0",), "dev"),
    ]


def test_identity_is_content_and_which_split_it_is(files, tmp_path):
    digests = ContentDigests()
    turned = {"train": files["dev"], "dev": files["train"]}
    assert SquadCorpus(files=files).content(digests) == SquadCorpus(files=turned).content(digests)
    assert SquadQuestions(files=files).content(digests) != SquadQuestions(files=turned).content(digests)
    assert "files" not in SquadCorpus(files=files).identity()


def test_unanswerable_questions_are_refused_or_left_out(tmp_path):
    file = squad(tmp_path / "v2.json", ("A", [("text", [qa("a"), qa("b", "x")])]))
    with pytest.raises(DataError, match=r"paragraphs\[0\].qas\[0\]: no answer. questions.skip_unanswerable=true"):
        list(SquadQuestions(files={"train": file}).questions())
    left = SquadQuestions(files={"train": file}, skip_unanswerable=True)
    assert [q.id for q in left.questions()] == ["b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": [\n{]}', r"bad.json, line 2: not valid JSON"),
        ("[]", r"bad.json: no 'data'. Is this SQuAD v1.1 JSON"),
        ('{"data": {}}', r"bad.json.data: a list is wanted, this is an object"),
        ('{"data": [{"title": "A"}]}', r"data\[0\]: no 'paragraphs'"),
        ('{"data": [{"title": "A", "paragraphs": [{"qas": []}]}]}', r"data\[0\].paragraphs\[0\]: no 'context'"),
        ('{"data": [{"title": 1, "paragraphs": []}]}', r"data\[0\].title: a text is wanted, this is a number"),
    ],
)
def test_malformed_files_are_named(tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text)
    corpus = SquadCorpus(files={"train": str(tmp_path / "bad.json")})
    with pytest.raises(DataError, match=message):
        list(corpus.documents())


def test_a_file_that_cannot_be_read_has_no_count(tmp_path):
    (tmp_path / "bad.json").write_text("[]")
    assert SquadCorpus(files={"train": str(tmp_path / "bad.json")}).count() is None
    assert SquadCorpus(files={"train": str(tmp_path / "gone.json")}).count() is None


def test_missing_files_are_problems_before_work(files):
    gone = {**files, "test": "gone.json"}
    assert [p.partition(" (")[0] for p in SquadCorpus(files=gone).problems()] == [
        "corpus.files.test: no file 'gone.json'"
    ]
    assert [p.partition(" (")[0] for p in SquadQuestions(files=gone).problems()] == [
        "questions.files.test: no file 'gone.json'"
    ]
    with pytest.raises(DataError, match=r"gone.json: no such file"):
        list(SquadCorpus(files=gone).documents())


@pytest.mark.skipif(not DATA.is_dir(), reason=f"SQuAD is not at {DATA} (set RAG_EXP_DATA)")
def test_the_real_development_set(tmp_path):
    files = {"train": str(DATA / "train.json"), "dev": str(DATA / "dev.json")}
    stats = write_passages(SquadCorpus(files=files), Whole(), tmp_path)
    assert (stats["passages"], stats["documents"]) == (2067, 48)
    table = PassageTable.open(tmp_path)
    folder = tmp_path / "questions"
    folder.mkdir()
    asked = write_questions(SquadQuestions(files=files), table, folder)
    assert asked["splits"] == {"train": 8001, "dev": 2569}
    dev = QuestionTable.open(folder, "dev", 300)
    texts = table.texts([rows[0] for rows in dev.gold])
    held = [answer_in_text(a, text) for a, (_, text) in zip(dev.answers, texts, strict=True)]
    assert sum(held) >= 0.97 * len(held)  # some answers are parts of words

"""HotpotQA's and MuSiQue's files: paragraphs as passages, gold in hop order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rag_exp.core.errors import DataError
from rag_exp.data.multihop_files import MultihopCorpus, MultihopQuestions
from rag_exp.data.sources import Document, Passage, Question

DATA = Path(os.environ.get("RAG_EXP_DATA", Path(__file__).parents[3] / "shared" / "data"))

HOTPOT = [
    {
        "_id": "a",
        "question": " Who? ",
        "answer": "x",
        "type": "bridge",
        "supporting_facts": [["T2", 0], ["T1", 1], ["T2", 1]],
        "context": [["T1", ["One. ", "Two."]], ["T2", [" Three."]], ["T3", []]],
    },
    {"_id": "b", "question": "B?", "answer": "y", "supporting_facts": [], "context": [["T1", ["One. ", "Two."]]]},
]


def musique(id, supports, answerable=True):
    paragraphs = [{"idx": n, "title": t, "paragraph_text": x} for n, (t, x) in enumerate([("T", "u"), ("T", "v")])]
    steps = [{"id": n, "question": "?", "answer": "!", "paragraph_support_idx": s} for n, s in enumerate(supports)]
    return {"id": id, "question": f"{id}?", "answer": "x", "answer_aliases": ["z", "x"], "answerable": answerable,
            "paragraphs": paragraphs, "question_decomposition": steps}  # fmt: skip


def write(path: Path, records, lines: bool = False) -> dict[str, str]:
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records, indent=1)
    path.write_text(text, encoding="utf-8")
    return {"train": str(path)}


@pytest.mark.parametrize("lines", [False, True])
def test_hotpotqa(tmp_path: Path, lines: bool):
    files = write(tmp_path / "q.json", HOTPOT, lines)
    assert list(MultihopCorpus(form="hotpotqa", files=files).documents()) == [
        Document("T1", (Passage("T1", "T1", "One. Two."),)),
        Document("T2", (Passage("T2", "T2", "Three."),)),
        Document("T3", (Passage("T3", "T3", ""),)),
    ]
    assert list(MultihopQuestions(form="hotpotqa", files=files).questions()) == [
        Question("a", "Who?", ("x",), ("T2", "T1"), "train", 2, "bridge"),
        Question("b", "B?", ("y",), (), "train", 1, ""),
    ]


def test_musique(tmp_path: Path):
    files = write(tmp_path / "q.jsonl", [musique("a", [1, 0]), musique("b", [0], answerable=False)], lines=True)
    (first,), (second,) = (d.passages for d in MultihopCorpus(form="musique", files=files).documents())
    assert (first.title, first.text, second.title, second.text) == ("T", "u", "T", "v")
    assert first.id != second.id
    assert list(MultihopQuestions(form="musique", files=files).questions()) == [
        Question("a", "a?", ("x", "z"), (second.id, first.id), "train", 2, "2 hops")
    ]


@pytest.mark.parametrize(
    ("form", "records", "says"),
    [
        ("musique", HOTPOT, r"\[0\]: no 'paragraphs'"),
        ("hotpotqa", [{**HOTPOT[0], "context": ["T1"]}], r"context\[0\]: \[title"),
        ("musique", [musique("a", [5])], r"paragraph_support_idx: 5, but there are 2"),
        ("hotpotqa", [1], r"\[0\]: a JSON object is wanted"),
    ],
)
def test_says_what_is_wrong_and_where(tmp_path: Path, form, records, says):
    files = write(tmp_path / "q.json", records)
    with pytest.raises(DataError, match=says):
        [*MultihopCorpus(form=form, files=files).documents(), *MultihopQuestions(form=form, files=files).questions()]


def test_a_file_that_is_not_there():
    made = MultihopCorpus(form="musique", files={"train": "absent.json"})
    assert "corpus.files.train: no file 'absent.json'" in made.problems()[0]
    with pytest.raises(DataError, match="no such file"):
        list(made.documents())


@pytest.mark.parametrize(("form", "passages", "hops"), [("hotpotqa", 994, {2}), ("musique", 1890, {2, 3, 4})])
def test_the_real_files(form, passages, hops):
    file = DATA / f"{form}-100" / "questions.json"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    documents = list(MultihopCorpus(form=form, files={"train": str(file)}).documents())
    questions = list(MultihopQuestions(form=form, files={"train": str(file)}).questions())
    ids = {d.id for d in documents}
    assert len(documents) == len(ids) == passages
    assert len(questions) == 100
    assert {q.hops for q in questions} == hops
    assert all(set(q.gold_ids) <= ids for q in questions)

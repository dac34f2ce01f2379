"""JSON-lines files: any field names, streamed, and a clear word on every bad line."""

import gzip
import json
import re
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.data.jsonl import JsonlCorpus, JsonlQuestions
from rag_exp.data.records import QuestionFields, look_up
from rag_exp.data.sources import Document, Passage, Question


def lines(file, *records):
    text = "".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records)
    file.write_text(text, encoding="utf-8")
    return str(file)


def docs(*files, **fields):
    return list(JsonlCorpus(files=list(files), fields=fields).documents())


def asked(files, **fields):
    return list(JsonlQuestions(files=files, fields=fields).questions())


# ---- passages


def test_default_fields_one_document_a_passage(tmp_path):
    file = lines(tmp_path / "p.jsonl", {"id": "a", "title": "A", "text": "x"}, "\n", {"id": 7, "text": "y"})
    assert docs(file) == [Document("a", (Passage("a", "A", "x"),)), Document("7", (Passage("7", "", "y"),))]


def test_mapped_fields_and_documents_over_files(tmp_path):
    one = lines(
        tmp_path / "1.jsonl",
        {"k": {"pid": 1}, "article": "A", "body": ["x1", "no"]},
        {"k": {"pid": 2}, "article": "A", "body": ["x2"]},
    )
    two = lines(
        tmp_path / "2.jsonl", {"k": {"pid": 3}, "article": "A", "body": ["x3"]}, {"k": {"pid": 4}, "body": ["x4"]}
    )
    found = docs(one, two, id="k.pid", document="article", title="article", text="body.0")
    assert found == [
        Document("A", tuple(Passage(str(n), "A", f"x{n}") for n in (1, 2, 3))),
        Document("4", (Passage("4", "", "x4"),)),
    ]


def test_ids_can_be_numbered(tmp_path):
    one = lines(tmp_path / "1.jsonl", {"text": "x"}, {"text": "y"})
    two = lines(tmp_path / "2.jsonl", {"text": "z"})
    assert [d.id for d in docs(one, two, id=None)] == ["0", "1", "2"]


def test_gzip_and_byte_order_mark(tmp_path):
    with gzip.open(tmp_path / "p.jsonl.gz", "wt", encoding="utf-8") as f:
        f.write('{"id": "a", "text": "é"}\n')
    (tmp_path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"id": "b", "text": "x"}\r\n')
    found = docs(str(tmp_path / "p.jsonl.gz"), str(tmp_path / "bom.jsonl"))
    assert [d.passages[0].text for d in found] == ["é", "x"]


def test_lines_are_streamed(tmp_path):
    file = lines(tmp_path / "p.jsonl", {"id": "a", "text": "x"}, {"id": "b", "text": "y"}, "not json\n")
    assert [d.id for d in islice(JsonlCorpus(files=file).documents(), 1)] == ["a"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"id": "b", "text": "y"\n', r"p.jsonl, line 2: not valid JSON \(Expecting ',' delimiter"),
        ('{"id": "b", "text": "y"} x\n', r"line 2: not valid JSON \(Extra data, column 26\)"),
        ('["b", "y"]\n', r"line 2: a JSON object is wanted \(\{...\}\), this is a list"),
        (
            {"id": "b", "txt": "y"},
            r"line 2: no field 'text' \(corpus.fields.text\). Did you mean 'txt'\? It has: id, txt",
        ),
        ({"id": "b", "text": None}, "line 2: no field 'text'"),
        ({"text": "y"}, r"line 2: no field 'id' \(corpus.fields.id\)"),
        ({"id": "b", "text": ["y"]}, r"line 2: 'text' \(corpus.fields.text\) is a list, not a text: \['y'\]"),
        ({"id": 1.5, "text": "y"}, "line 2: 'id' .* is a decimal number"),
        ({"id": "b", "text": "y", "title": {}}, "line 2: 'title' .* is an object"),
    ],
)
def test_a_bad_line_is_named_with_file_number_and_reason(tmp_path, bad, message):
    file = lines(tmp_path / "p.jsonl", {"id": "a", "text": "x"}, bad)
    with pytest.raises(DataError, match=message):
        docs(file)


def test_bytes_that_are_no_utf8_are_named(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(b'{"id": "a", "text": "x"}\n{"id": "b", "text": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"line 2: not UTF-8 text \(byte 25"):
        docs(str(tmp_path / "p.jsonl"))


def test_a_mapping_that_no_record_knows_is_a_slip(tmp_path):
    file = lines(tmp_path / "p.jsonl", {"id": "a", "text": "x", "heading": "H"})
    with pytest.raises(
        DataError, match=r"No record has the field 'headin' that corpus.fields.title names. Did you mean"
    ):
        docs(file, title="headin")
    assert docs(file, title="heading")[0].passages[0].title == "H"


def test_missing_files_are_problems_before_work(tmp_path):
    there = lines(tmp_path / "p.jsonl", {"id": "a", "text": "x"})
    corpus = JsonlCorpus(files=[there, "gone.jsonl"])
    assert [p.partition(" (")[0] for p in corpus.problems()] == ["corpus.files: no file 'gone.jsonl'"]
    assert JsonlCorpus(files=there).problems() == []
    questions = JsonlQuestions(files={"train": there, "dev": "gone.jsonl"})
    assert [p.partition(" (")[0] for p in questions.problems()] == ["questions.files.dev: no file 'gone.jsonl'"]
    with pytest.raises(DataError, match=r"gone.jsonl: no such file"):
        list(corpus.documents())


def test_no_files_are_a_config_error():
    with pytest.raises(ValidationError, match=r"corpus.files=passages.jsonl"):
        JsonlCorpus(files=[])
    for files in ({}, {"train": None}, {"train": []}):
        with pytest.raises(ValidationError, match=r"questions.files.train=train.jsonl"):
            JsonlQuestions(files=files)


def test_identity_is_content_not_place(tmp_path):
    one = lines(tmp_path / "1.jsonl", {"id": "a", "text": "x"})
    copy = lines(tmp_path / "2.jsonl", {"id": "a", "text": "x"})
    other = lines(tmp_path / "3.jsonl", {"id": "a", "text": "y"})

    def identity(file):
        corpus = JsonlCorpus(files=file)
        return corpus.identity() | corpus.content(ContentDigests())

    assert identity(one) == identity(copy)
    assert identity(one) != identity(other)
    assert "files" not in JsonlCorpus(files=one).identity()
    asked = JsonlQuestions(files={"train": one})
    assert asked.content(ContentDigests()) != JsonlQuestions(files={"dev": one}).content(ContentDigests())


def test_count_is_the_number_of_passages(tmp_path):
    one = lines(tmp_path / "1.jsonl", {"id": "a", "text": "x"}, "\n", {"id": "b", "text": "x"})
    two = lines(tmp_path / "2.jsonl", '{"id": "c", "text": "no newline at the end"}')
    assert JsonlCorpus(files=[one, two]).count() == len(docs(one, two)) == 3
    assert JsonlCorpus(files="gone.jsonl").count() is None


# ---- questions


def test_questions_of_several_files_and_splits(tmp_path):
    train = lines(tmp_path / "t.jsonl", {"question": "q1", "answers": ["a", "b", "a"], "gold": ["p1", "p2"], "id": "x"})
    more = lines(tmp_path / "m.jsonl", {"question": "q2", "answers": "c", "gold": 3})
    dev = lines(tmp_path / "d.jsonl", {"question": "q3", "answers": [1]})
    assert asked({"train": [train, more], "dev": dev, "test": None}) == [
        Question("x", "q1", ("a", "b"), ("p1", "p2"), "train"),
        Question("train-1", "q2", ("c",), ("3",), "train"),
        Question("dev-0", "q3", ("1",), (), "dev"),
    ]


def test_mapped_fields_go_into_nested_objects_and_lists(tmp_path):
    record = {
        "q": {"text": "q"},
        "ans": [{"value": "a"}, {"other": 1}, {"value": "b"}],
        "ctx": [{"pid": 1, "gold": True}, {"pid": 2}],
        "set": "validation",
        "n": 2,
        "type": "bridge",
    }
    file = lines(tmp_path / "q.jsonl", record)
    fields = {"question": "q.text", "answers": "ans.value", "gold": "ctx.0.pid", "split": "set"}
    found = asked({"train": file}, **fields, hops="n", template="type")
    assert found == [Question("train-0", "q", ("a", "b"), ("1",), "validation", 2, "bridge")]


ARC = {"question": "q", "choices": {"text": ["red", "blue", "green"], "label": ["A", "B", "C"]}, "key": "B"}
OF_ARC = {"choices": "choices.text", "labels": "choices.label", "answers": "key", "answers_are": "labels"}


def test_choices_and_answers_by_text_label_and_number(tmp_path):
    colours = ("red", "blue", "green")
    by_text = lines(tmp_path / "t.jsonl", {"question": "q", "among": list(colours), "answers": ["blue", "azure"]})
    (found,) = asked({"dev": by_text}, choices="among")
    assert (found.choices, found.answers) == (colours, ("blue", "azure"))
    (found,) = asked({"dev": lines(tmp_path / "l.jsonl", ARC)}, **OF_ARC)
    assert (found.choices, found.answers) == (colours, ("blue",))
    by_number = lines(tmp_path / "n.jsonl", {"question": "q", "choices": [3, 1, 2], "answer": 2})
    (found,) = asked({"dev": by_number}, choices="choices", answers="answer", answers_are="numbers")
    assert (found.choices, found.answers) == (("3", "1", "2"), ("2",))
    (found,) = asked({"dev": by_text})
    assert found.choices == ()


@pytest.mark.parametrize(
    ("record", "fields", "message"),
    [
        (ARC | {"key": "D"}, OF_ARC, r"line 1: 'key' \(questions.fields.answers\) is 'D', none of .* labels: A, B, C"),
        (ARC | {"key": 3}, {**OF_ARC, "labels": None, "answers_are": "numbers"}, "is '3', none of .* numbers: 0, 1, 2"),
        (ARC | {"choices": {"text": ["a", "b", "a"]}}, OF_ARC, r"'choices.text' .* holds a text twice"),
        (ARC | {"choices": {"text": ["a", "b"], "label": ["A"]}}, OF_ARC, "1 labels for 2 choices"),
        ({"question": "q", "key": "B"}, OF_ARC, r"no field 'choices.text' \(questions.fields.choices\)"),
    ],
)
def test_bad_choices_are_named(tmp_path, record, fields, message):
    with pytest.raises(DataError, match=message):
        asked({"dev": lines(tmp_path / "q.jsonl", record)}, **fields)


def test_what_speaks_of_choices_needs_some_and_is_in_no_other_identity():
    with pytest.raises(ValidationError, match="name their field too"):
        QuestionFields(answers_are="numbers")
    with pytest.raises(ValidationError, match="go together"):
        QuestionFields(choices="c", answers_are="labels")
    assert not {"choices", "labels", "answers_are"} & set(QuestionFields().identity())
    assert QuestionFields(choices="c").identity()["answers_are"] == "texts"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"answers": ["a"]}, r"q.jsonl, line 2: no field 'question' \(questions.fields.question\)"),
        ({"question": "q"}, r"line 2: no field 'answers' \(questions.fields.answers\)"),
        ({"question": "q", "answers": []}, r"line 2: 'answers' \(questions.fields.answers\) is an empty list"),
        ({"question": "q", "answers": [["a"]]}, "line 2: 'answers' .* is a list, not a text"),
        ({"question": "q", "answers": [True]}, "line 2: 'answers' .* is a boolean"),
        ({"question": "q", "answers": "a", "gold": [{"id": 1}]}, "line 2: 'gold' .* is an object"),
    ],
)
def test_a_bad_question_is_named(tmp_path, bad, message):
    file = lines(tmp_path / "q.jsonl", {"question": "q", "answers": "a"}, bad)
    with pytest.raises(DataError, match=message):
        asked({"train": file})


def test_hops_must_be_a_number_from_one_on(tmp_path):
    file = lines(tmp_path / "q.jsonl", {"question": "q", "answers": "a", "n": 0})
    with pytest.raises(DataError, match=r"questions.fields.hops\) must be a whole number from 1 on: 0"):
        asked({"train": file}, hops="n")


def test_a_gold_mapping_that_no_record_knows_is_a_slip(tmp_path):
    file = lines(tmp_path / "q.jsonl", {"question": "q", "answers": "a", "positive_ids": ["p"]})
    with pytest.raises(DataError, match=r"'positive_id' that questions.fields.gold names. Did you mean 'positive_ids'"):
        asked({"train": file}, gold="positive_id")
    assert asked({"train": file})[0].gold_ids == ()  # the default name may simply be absent


@given(
    st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda v: st.dictionaries(st.sampled_from("ab"), v))
)
def test_look_up_is_plain_indexing_of_nested_objects(value):
    for path in ("a", "a.b", "b.a.a"):
        wanted = value
        for step in path.split("."):
            wanted = wanted.get(step) if isinstance(wanted, dict) else None
        assert look_up(value, path) == wanted


WHOLE = gzip.compress(b"".join(json.dumps({"id": n, "text": str(n * n)}).encode() + b"\n" for n in range(20_000)))


@pytest.mark.parametrize(
    ("content", "reached"),
    [
        pytest.param(WHOLE[: len(WHOLE) // 2], range(1, 20_000), id="truncated"),
        pytest.param(WHOLE[:-8] + bytes(8), range(1, 20_001), id="checksum"),
        pytest.param(WHOLE + WHOLE[:10] + b"\x07" * 9, range(1, 20_001), id="no deflate block"),
        pytest.param(b'{"id": 1, "text": "x"}\n', [0], id="no gzip"),
    ],
)
def test_a_damaged_gzip_file_is_named_with_the_line_reached(tmp_path, content, reached):
    file = tmp_path / "p.jsonl.gz"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"p\.jsonl\.gz: cannot be read beyond line \d+ \(") as e:
        docs(str(file))
    assert int(re.search(r"line (\d+)", str(e.value))[1]) in reached

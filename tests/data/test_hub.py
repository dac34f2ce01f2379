"""The Hugging Face readers, on data sets saved to disk, on parquet files, and on a copy in the cache of datasets."""

import json
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.data import hub
from rag_exp.data.hub import HubCorpus, HubQuestions, resolve_revision
from rag_exp.data.passages import PassageTable, Whole, write_passages
from rag_exp.data.questions import QuestionTable, write_questions
from rag_exp.data.sources import Document, Passage, Question

ROWS = {
    "id": [1, 2, 3],
    "title": ["A", "A", "B"],
    "text": ["x1", "x2", "x3"],
    "embeddings": [[0.5, 0.25], [0.5, 0.25], [0.5, 0.25]],
}
BY_TITLE = [
    Document("A", (Passage("1", "A", "x1"), Passage("2", "A", "x2"))),
    Document("B", (Passage("3", "B", "x3"),)),
]
ASKED = {"question": ["q1", "q2"], "answer": [["a"], ["b", "c"]]}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def docs(**options):
    return list(HubCorpus(fields={"document": "title"}, **options).documents())


def parquet(file, columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)
    return str(file)


@pytest.fixture
def saved(tmp_path):
    from datasets import Dataset

    Dataset.from_dict(ROWS).save_to_disk(str(tmp_path / "saved"))
    return str(tmp_path / "saved")


def test_a_data_set_saved_to_disk(saved):
    assert docs(path=saved) == BY_TITLE
    assert docs(path=saved, split=None) == BY_TITLE


def test_splits_of_a_data_set_saved_to_disk(tmp_path):
    from datasets import Dataset, DatasetDict

    path = str(tmp_path / "d")
    DatasetDict({"train": Dataset.from_dict(ASKED), "validation": Dataset.from_dict(ASKED)}).save_to_disk(path)
    asked = HubQuestions(path=path, fields={"answers": "answer"})
    assert list(asked.questions()) == [
        Question(f"{split}-{n}", f"q{n + 1}", answers, (), split)
        for split in ("train", "dev")
        for n, answers in enumerate([("a",), ("b", "c")])
    ]
    only = HubQuestions(path=path, splits={"dev": "validation", "train": None}, fields={"answers": "answer"})
    assert {q.split for q in only.questions()} == {"dev"}
    with pytest.raises(DataError, match=r"questions: the data set in .* has no split 'test'; it has train, validation"):
        list(HubQuestions(path=path, splits={"test": "test"}, fields={"answers": "answer"}).questions())


def test_parquet_file_and_folder(tmp_path):
    file = parquet(tmp_path / "one" / "part.parquet", ROWS)
    assert docs(path=file) == BY_TITLE
    assert docs(path=str(tmp_path / "one"), split=None) == BY_TITLE
    assert HubCorpus(path=file).count() == 3


def test_parquet_files_by_split(tmp_path):
    parts = [{k: v[n : n + 1] for k, v in ROWS.items()} for n in range(3)]
    parquet(tmp_path / "data" / "train-00000-of-00002.parquet", parts[0])
    parquet(tmp_path / "data" / "train-00001-of-00002.parquet", parts[1])
    parquet(tmp_path / "data" / "trained.parquet", parts[2])
    parquet(tmp_path / "test" / "0.parquet", parts[2])
    path = str(tmp_path)
    assert docs(path=path) == BY_TITLE[:1]
    assert docs(path=path, split="test") == BY_TITLE[1:]
    assert HubCorpus(path=path).count() == 2
    with pytest.raises(
        DataError, match=r"corpus: no parquet file under .* belongs to split 'dev'.*there are 4: data/train"
    ):
        docs(path=path, split="dev")


def test_rows_are_named_in_errors(tmp_path, saved):
    file = parquet(tmp_path / "p.parquet", {"id": ["a", "b"], "text": ["x", None]})
    with pytest.raises(DataError, match=r"p.parquet, row 2: no field 'text' \(corpus.fields.text\)"):
        list(HubCorpus(path=file).documents())
    with pytest.raises(DataError, match=r"saved \(train\), row 1: no field 'body' \(corpus.fields.text\)"):
        list(HubCorpus(path=saved, fields={"text": "body"}).documents())


def test_data_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"bad.parquet: cannot be read as parquet"):
        docs(path=str(tmp_path / "bad.parquet"))
    assert HubCorpus(path=str(tmp_path / "bad.parquet")).count() is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds neither a data set saved by save_to_disk nor parquet files"):
        docs(path=str(tmp_path / "empty"))
    (tmp_path / "empty" / "state.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be loaded as a saved data set"):
        docs(path=str(tmp_path / "empty"))


def test_problems_before_work(tmp_path):
    assert [p.partition(" (")[0] for p in HubCorpus(path="gone").problems()] == [
        "corpus.path: no file or folder 'gone'"
    ]
    assert HubQuestions(path="gone").problems()[0].startswith("questions.path: ")
    assert HubCorpus(path=str(tmp_path)).problems() == []
    assert "must end in one of .parquet" in HubCorpus(name="a/b", data_files="data/*").problems()[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either name .* or path"),
        ({"name": "a/b", "path": "c"}, "give either name .* or path"),
        ({"path": "c", "revision": "main"}, "belong to a data set on the Hub"),
    ],
)
def test_one_place_is_named(options, message):
    with pytest.raises(ValidationError, match=message):
        HubCorpus(**options)


def test_one_file_has_one_split(tmp_path):
    file = parquet(tmp_path / "q.parquet", ASKED)
    with pytest.raises(ValidationError, match="path is one file, so splits must name one split, not 2"):
        HubQuestions(path=file)
    with pytest.raises(ValidationError, match="names one split of the data set twice"):
        HubQuestions(name="a/b", splits={"train": "x", "dev": "x"})


def test_local_identity_is_content(tmp_path, saved):
    from datasets import Dataset

    Dataset.from_dict(ROWS).save_to_disk(str(tmp_path / "copy"))  # its state.json holds another fingerprint
    changed = {**ROWS, "text": ["x1", "x2", "x4"]}
    Dataset.from_dict(changed).save_to_disk(str(tmp_path / "changed"))

    def identity(path):
        corpus = HubCorpus(path=path)
        return corpus.identity() | corpus.content(ContentDigests())

    assert identity(saved) == identity(str(tmp_path / "copy"))
    assert identity(saved) != identity(str(tmp_path / "changed"))
    assert "path" not in HubCorpus(path=saved).identity()


class Hub:
    """Stands for huggingface_hub.HfApi: answers with ``sha``, or raises it."""

    def __init__(self, sha):
        self.sha, self.asked = sha, []

    def __call__(self):
        return self

    def dataset_info(self, name, revision, timeout):
        self.asked.append((name, revision))
        if isinstance(self.sha, Exception):
            raise self.sha
        return self


@pytest.fixture
def the_hub(monkeypatch):
    def answers(sha):
        api = Hub(sha)
        monkeypatch.setattr("huggingface_hub.HfApi", api)
        resolve_revision.cache_clear()
        return api

    yield answers
    resolve_revision.cache_clear()


def test_hub_identity_is_the_commit(the_hub):
    api = the_hub(COMMIT)
    main, default = HubCorpus(name="a/b", revision="main"), HubCorpus(name="a/b")
    assert main.content(ContentDigests()) == default.content(ContentDigests()) == {"commit": COMMIT}
    assert main.identity() == default.identity()
    assert default.content(ContentDigests()) == {"commit": COMMIT}
    assert api.asked == [("a/b", "main"), ("a/b", None)]  # the second default was remembered


def test_a_full_commit_needs_no_hub(the_hub):
    the_hub(OSError("no network"))
    assert HubQuestions(name="a/b", revision=COMMIT).content(ContentDigests()) == {"commit": COMMIT}


def test_offline_says_what_to_do(the_hub):
    the_hub(OSError("no network"))
    with pytest.raises(
        DataError, match=r"corpus.name: the Hub could not be asked .*no network.*corpus.revision=.*corpus.path="
    ):
        HubCorpus(name="a/b").content(ContentDigests())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RepositoryNotFoundError", "questions.name: the Hub has no data set 'a/b'"),
        ("RevisionNotFoundError", "questions.revision: the data set 'a/b' has no revision 'v9'"),
    ],
)
def test_unknown_names_and_revisions(the_hub, error, message):
    from huggingface_hub import errors

    kind = getattr(errors, error)
    the_hub(kind.__new__(kind))
    with pytest.raises(DataError, match=message):
        HubQuestions(name="a/b", revision="v9").content(ContentDigests())


@pytest.mark.parametrize("streaming", [False, True])
def test_named_files_of_a_repository_are_read_without_other_columns(tmp_path, monkeypatch, streaming):
    """The real loading path of data_files, with the repository on this machine instead of behind hf://."""
    parquet(tmp_path / "repo" / COMMIT / "data" / "train-0.parquet", ROWS)
    monkeypatch.setattr(hub, "_FILES", str(tmp_path / "{name}" / "{commit}" / "{pattern}"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    corpus = HubCorpus(
        name="repo",
        revision=COMMIT,
        data_files="data/train-*.parquet",
        streaming=streaming,
        fields={"document": "title"},
    )
    rows = list(hub.read_rows(corpus, "train", corpus.fields.roots()))
    assert rows[0] == ("repo (train), row 1", {"id": 1, "title": "A", "text": "x1"})
    assert list(corpus.documents()) == BY_TITLE
    gone = HubCorpus(name="repo", revision=COMMIT, data_files="data/dev-*.parquet", streaming=streaming)
    with pytest.raises(DataError, match=r"corpus.name: 'repo', split 'train' cannot be loaded"):
        list(gone.documents())


OFFLINE = """
import json, os, shutil, sys
from pathlib import Path
from datasets import load_dataset
from rag_exp.core.errors import DataError
from rag_exp.data.hub import HubCorpus

cache, file, commit = Path(os.environ["HF_DATASETS_CACHE"]), sys.argv[1], sys.argv[2]
load_dataset("parquet", data_files={"train": file})
made = next(p for p in cache.glob("parquet/*/*/*") if p.is_dir())
copy = cache / "owner___data" / "default" / "0.0.0" / commit
shutil.copytree(made, copy)
(copy / "parquet-train.arrow").rename(copy / "data-train.arrow")
found = [d.id for d in HubCorpus(name="owner/data", revision=commit).documents()]
try:
    list(HubCorpus(name="owner/data", revision="f" * 40).documents())
except DataError as e:
    print(json.dumps([found, str(e)]))
"""


def test_offline_a_copy_in_the_cache_is_read_if_it_is_of_the_commit(tmp_path):
    file = parquet(tmp_path / "p.parquet", {"id": ["a", "b"], "text": ["x", "y"]})
    env = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, file, COMMIT], env=env, capture_output=True, text=True, check=True
    )
    found, message = json.loads(done.stdout.splitlines()[-1])
    assert found == ["a", "b"]
    assert f"commit {'f' * 40} of 'owner/data' is not in the cache of datasets, which has {COMMIT}" in message


def test_the_whole_path_from_a_saved_data_set(tmp_path, saved):
    from datasets import Dataset

    asked = {**ASKED, "positive": [[3], [1, 2]], "qid": ["u", "v"]}
    Dataset.from_dict(asked).save_to_disk(str(tmp_path / "asked"))
    for folder in ("passages", "questions"):
        (tmp_path / folder).mkdir()
    write_passages(HubCorpus(path=saved, fields={"document": "title"}), Whole(), tmp_path / "passages")
    table = PassageTable.open(tmp_path / "passages")
    fields = {"answers": "answer", "gold": "positive", "id": "qid"}
    questions = HubQuestions(path=str(tmp_path / "asked"), splits={"dev": "train"}, fields=fields)
    write_questions(questions, table, tmp_path / "questions")
    read = QuestionTable.open(tmp_path / "questions", "dev")
    gold = dict(zip(read.ids, (table.ids(rows) for rows in read.gold), strict=True))
    assert gold == {"u": ["3"], "v": ["1", "2"]}


def test_multiple_choice_in_the_forms_of_arc_and_mmlu(tmp_path):
    texts, labels = [["red", "blue"], ["up", "down", "left"]], [["A", "B"], ["1", "2", "3"]]
    choices = [{"text": t, "label": n} for t, n in zip(texts, labels, strict=True)]
    arc = parquet(tmp_path / "arc.parquet", {"question": ["q1", "q2"], "choices": choices, "answerKey": ["B", "3"]})
    mmlu = parquet(tmp_path / "mmlu.parquet", {"question": ["q1", "q2"], "choices": texts, "answer": [1, 2]})
    of_arc = {"answers": "answerKey", "choices": "choices.text", "labels": "choices.label", "answers_are": "labels"}
    of_mmlu = {"answers": "answer", "choices": "choices", "answers_are": "numbers"}
    for path, fields in ((arc, of_arc), (mmlu, of_mmlu)):
        found = list(HubQuestions(path=path, splits={"dev": "train"}, fields=fields).questions())
        assert [q.choices for q in found] == [tuple(t) for t in texts]
        assert [q.answers for q in found] == [("blue",), ("left",)]

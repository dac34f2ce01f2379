"""Vectors that were made elsewhere, by id, and a search over them by the real verb."""

import json

import numpy as np
import pytest

from rag_exp import cli
from rag_exp.core.errors import DataError
from rag_exp.core.record import read_record
from rag_exp.retrieval.precomputed import PrecomputedVectors

PASSAGES, QUESTIONS, DIMS = 60, 8, 12


@pytest.fixture
def files(place):
    """A corpus, its questions and their vectors; passages are given in another order than their vectors."""
    rng = np.random.default_rng(0)
    ids = [f"p{i}" for i in range(PASSAGES)]
    corpus = [{"id": i, "text": f"text {i}"} for i in rng.permutation(ids)]
    asked = [{"id": f"q{i}", "question": f"which {i}?", "answers": ["x"], "gold": [f"p{i}"]} for i in range(QUESTIONS)]
    (place / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (place / "dev.jsonl").write_text("\n".join(map(json.dumps, asked)))
    passages = rng.standard_normal((PASSAGES, DIMS)).astype(np.float16)
    np.save("p.npy", passages)
    np.save("q.npy", passages[:QUESTIONS].astype(np.float64) + 0.01)
    np.save("q_ids.npy", np.array([q["id"] for q in asked]))
    (place / "p.txt").write_text("\n".join(ids))
    return passages


WORDS = ["corpus=jsonl", "corpus.files=corpus.jsonl", "questions=jsonl", "questions.files.dev=dev.jsonl"]
WORDS += ["encoder=precomputed", "encoder.passages=p.npy", "encoder.passage_ids=p.txt", "encoder.questions=q.npy"]
WORDS += ["encoder.question_ids=q_ids.npy", "retrieval.k=5"]


def test_vectors_come_by_id(files):
    known = PrecomputedVectors("p.npy", "p.txt", "passage")
    assert known.dims == DIMS
    assert np.array_equal(known.of(["p7", "p0", "p7"]), files[[7, 0, 7]])


def test_a_search_over_them_finds_what_a_product_finds(files, place):
    assert cli.main(["bench", *WORDS]) == 0
    assert cli.main(["export", "", "--trec", "found.trec"]) == 0
    queries = np.load("q.npy").astype(np.float32)
    best = np.argsort(-(queries @ files.astype(np.float32).T), axis=1)[:, :5]
    found = [line.split() for line in (place / "found.trec").read_text().splitlines()]
    for q in range(QUESTIONS):
        assert [passage for id, _, passage, *_ in found if id == f"q{q}"] == [f"p{row}" for row in best[q]]
    (record,) = (read_record(f) for f in place.glob("outputs/runs/*/record.json"))
    assert "encoder" not in record.artifacts
    assert record.flops["embedding"] == 0
    assert record.metrics["index_recall@k"] == 1.0


def test_vectors_made_elsewhere_belong_to_no_seed(files, place):
    """There is no encoder behind them, so that neither a seed nor training questions can make other ones."""
    for more in ([], ["seed=1", "retrieval.k=4"], ["training.questions=3", "retrieval.k=3"]):
        assert cli.main(["bench", *WORDS, *more]) == 0
    assert len(list(place.glob("outputs/runs/*/record.json"))) == 3
    assert len(list(place.glob("outputs/store/objects/embeddings/*"))) == 1


def test_other_content_is_another_run(files, place):
    assert cli.main(["bench", *WORDS]) == 0
    np.save("q.npy", np.load("q.npy") + 1)
    assert cli.main(["bench", *WORDS]) == 0
    assert len(list(place.glob("outputs/runs/*/record.json"))) == 2


def test_what_does_not_fit_is_named(files, place, capsys):
    with pytest.raises(DataError, match="no vector for 1 of 2 passages, first 'x'"):
        PrecomputedVectors("p.npy", "p.txt", "passage").of(["p1", "x"])
    with pytest.raises(DataError, match="8 ids for the 60 rows"):
        PrecomputedVectors("p.npy", "q_ids.npy", "passage")
    (place / "twice.txt").write_text("\n".join(["p0"] * PASSAGES))
    with pytest.raises(DataError, match="'p0' comes twice"):
        PrecomputedVectors("p.npy", "twice.txt", "passage")
    np.save("flat.npy", np.zeros(3))
    assert cli.main(["bench", *WORDS, "encoder.questions=flat.npy"]) == 2
    assert "floats of shape [rows, dims]" in capsys.readouterr().err
    np.save("narrow.npy", np.zeros((QUESTIONS, 3)))
    assert cli.main(["bench", *WORDS, "encoder.questions=narrow.npy"]) == 2
    assert "3 dimensions" in capsys.readouterr().err
    assert cli.main(["bench", *WORDS, "encoder.passages=nowhere.npy"]) == 2
    assert "encoder.passages: no file 'nowhere.npy'" in capsys.readouterr().err
    assert cli.main(["run", *WORDS, "retriever=query"]) == 2
    assert "encoder=precomputed cannot train" in capsys.readouterr().err


def test_a_broken_vector_names_its_passage(files, capsys):
    broken = files.copy()
    broken[3, 0] = np.nan
    np.save("p.npy", broken)
    assert cli.main(["bench", *WORDS]) == 1
    assert "p.npy: the vector of passage 'p3' holds NaN or infinity" in capsys.readouterr().err

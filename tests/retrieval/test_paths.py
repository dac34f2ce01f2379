from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag_exp.core.errors import DataError
from rag_exp.retrieval.encoders import Static, passage_text
from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.indexes import BM25, Flat
from rag_exp.retrieval.paths import Paths, second_hop
from rag_exp.retrieval.results import SearchResult
from rag_exp.retrieval.static import StaticEncoder

QUESTIONS = ["What is the capital of Bake?", "the highest point of Limo Nura", "What is the capital of Bake?"]


@pytest.fixture
def encoder(tokenizer_folder: Path, toy) -> StaticEncoder:
    made = Static(dims=10, scale=5.0).create(tokenizer_folder, 512, seed=1)
    made.prepare([made.features([passage_text(*p) for p in toy.pairs], "passage")])
    return made


@pytest.fixture
def index(encoder, toy):
    return Flat().create([encoder.encode([passage_text(*p) for p in toy.pairs], "passage")], 0)


def by_hand(toy, encoder, row: int, question: str, options: SecondHop) -> list[int]:
    vectors = encoder.encode([passage_text(*p) for p in toy.pairs], "passage")
    scores = vectors @ encoder.encode([options.compose(question, *toy.pairs[row])], "question")[0]
    return [int(r) for r in np.argsort(-scores, kind="stable") if r != row][: options.j]


def test_each_passage_is_followed_by_the_best_of_its_own_query(encoder, index, toy):
    options = SecondHop(j=3)
    hop1 = index.search(encoder.encode(QUESTIONS, "question"), 4)
    paths, facts = second_hop(index, hop1, QUESTIONS, toy, options, encoder)
    assert paths.ids_QKJ.shape == paths.scores_QKJ.shape == (3, 4, 3)
    for q in (0, 1):
        for k in range(4):
            row = int(hop1.ids_QK[q, k])
            assert paths.ids_QKJ[q, k].tolist() == by_hand(toy, encoder, row, QUESTIONS[q], options)
    np.testing.assert_array_equal(paths.ids_QKJ[0], paths.ids_QKJ[2])
    assert facts["queries"] == 8, "a question that comes twice is asked once"
    assert facts["distances"] == 8 * len(toy)


def test_nothing_follows_a_masked_passage(encoder, index, toy):
    found = index.search(encoder.encode(QUESTIONS, "question"), 2)
    ids = found.ids_QK.copy()
    ids[1, 1] = ids[2] = -1
    paths, facts = second_hop(index, SearchResult.of(ids, found.scores_QK, 2), QUESTIONS, toy, SecondHop(j=2), encoder)
    assert (paths.ids_QKJ >= 0).any(2).tolist() == [[True, True], [True, False], [False, False]]
    assert np.isneginf(paths.scores_QKJ[1, 1]).all()
    assert facts["queries"] == 3


def test_nothing_at_all(index, encoder, toy):
    paths, facts = second_hop(index, SearchResult.empty(2, 3), QUESTIONS[:2], toy, SecondHop(j=2), encoder)
    assert paths.ids_QKJ.shape == (2, 3, 2)
    assert not (paths.ids_QKJ >= 0).any()
    assert facts["recall"] is None


def test_a_corpus_that_is_too_small_leaves_places_empty(encoder, toy):
    index = Flat().create([encoder.encode([passage_text(*p) for p in toy.pairs[:2]], "passage")], 0)
    paths, _ = second_hop(
        index, index.search(encoder.encode(QUESTIONS, "question"), 2), QUESTIONS, toy, SecondHop(j=3), encoder
    )
    assert (paths.ids_QKJ >= 0).sum(2).tolist() == [[1, 1]] * 3
    assert (np.sort(np.stack([paths.hop1.ids_QK, paths.ids_QKJ[..., 0]], -1), axis=-1) == [0, 1]).all()


def test_the_question_alone_finds_its_own_other_passages(encoder, index, toy):
    """What a one-hop search finds, as pairs: the control of a second hop that learns nothing from the first."""
    wide = index.search(encoder.encode(QUESTIONS, "question"), 5)
    paths, _ = second_hop(index, wide.first(4), QUESTIONS, toy, SecondHop(j=4, query="{question}"), encoder)
    for q in range(3):
        for k in range(4):
            assert paths.ids_QKJ[q, k].tolist() == [r for n, r in enumerate(wide.ids_QK[q]) if n != k]


def test_by_words(toy):
    index = BM25().create((passage_text(*p) for p in toy.pairs), 0)
    options = SecondHop(j=2, query="{question} {text}")
    paths, facts = second_hop(index, index.search(QUESTIONS, 2), QUESTIONS, toy, options)
    row = int(paths.hop1.ids_QK[1, 0])
    found = index.search([options.compose(QUESTIONS[1], *toy.pairs[row])], 3).ids_QK[0]
    assert paths.ids_QKJ[1, 0].tolist() == [r for r in found if r != row][:2]
    assert facts["tokens"] == facts["encode_flops"] == 0


def test_recall_is_measured_against_exact_search(encoder, index, toy):
    hop1 = index.search(encoder.encode(QUESTIONS, "question"), 4)
    blocks = [encoder.encode([passage_text(*p) for p in toy.pairs], "passage")]
    assert second_hop(index, hop1, QUESTIONS, toy, SecondHop(), encoder, blocks)[1]["recall"] == 1.0
    worse = Flat().create([blocks[0][:60]], 0)
    assert second_hop(worse, hop1, QUESTIONS, toy, SecondHop(), encoder, blocks)[1]["recall"] < 0.9


def test_saved_and_loaded(encoder, index, toy, tmp_path: Path):
    hop1 = index.search(encoder.encode(QUESTIONS, "question"), 4)
    paths, _ = second_hop(index, hop1, QUESTIONS, toy, SecondHop(j=3), encoder)
    paths.save(tmp_path)
    read = Paths.load(tmp_path)
    np.testing.assert_array_equal(read.ids_QKJ, paths.ids_QKJ)
    np.testing.assert_array_equal(read.scores_QKJ, paths.scores_QKJ)
    hop1.first(2).save(tmp_path / "hop1")
    with pytest.raises(DataError, match="12 rows of hop 2 for 3 questions of 2"):
        Paths.load(tmp_path)


def test_given_pairs():
    paths = Paths.of_pairs(np.array([[[7, 2], [3, 9]], [[4, 5], [-1, -1]]]))
    assert paths.hop1.ids_QK.tolist() == [[3, 7], [4, -1]]
    assert paths.ids_QKJ[..., 0].tolist() == [[9, 2], [5, -1]]

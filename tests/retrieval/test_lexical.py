from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest

from rag_exp.retrieval.lexical import BM25, Words

TEXTS = [
    "Chad\nThe capital of Chad is N'Djamena",
    "Mali\nBamako is the capital, Bamako is large",
    "",
    "Niger\nrivers rivers rivers and rivers in Niger",
    "the of and",
]


def direct(question: str, texts: list[str], k1: float, b: float, stopwords: str | None) -> list[float]:
    """Robertson's formula with Lucene's idf, word by word."""
    words = Words(stopwords)
    docs = [words.of(t) for t in texts]
    mean = sum(map(len, docs)) / len(docs)
    scores = []
    for doc in docs:
        total = 0.0
        for w in words.of(question):
            df = sum(w in d for d in docs)
            tf = doc.count(w)
            if tf:
                idf = math.log(1 + (len(docs) - df + 0.5) / (df + 0.5))
                total += idf * tf / (tf + k1 * (1 - b + b * len(doc) / mean))
        scores.append(total)
    return scores


@pytest.mark.parametrize(("k1", "b", "stopwords"), [(0.9, 0.4, "en"), (1.5, 0.75, None), (0.0, 0.0, "en")])
@pytest.mark.parametrize("question", ["What is the capital of Chad?", "Bamako, Bamako!", "rivers in Niger", "nothing"])
def test_scores_are_the_formulas(question: str, k1: float, b: float, stopwords: str | None):
    found = BM25(k1=k1, b=b, stopwords=stopwords).create(iter(TEXTS), 0).search([question], len(TEXTS))
    expected = direct(question, TEXTS, k1, b, stopwords)
    scores = dict(zip(found.ids_QK[0].tolist(), found.scores_QK[0].tolist(), strict=True))
    np.testing.assert_allclose([scores[i] for i in range(len(TEXTS))], expected, rtol=1e-5, atol=1e-7)
    assert found.ids_QK[0].tolist() == sorted(range(len(TEXTS)), key=lambda i: (-np.float32(scores[i]), i))


def test_words():
    assert Words("en").of("The N'Djamena of 1960, a B-52 in Côte") == ["djamena", "1960", "52", "côte"]
    assert Words(None).of("The of A") == ["the", "of"]


def test_a_question_without_known_words_still_gets_k_passages():
    found = BM25().create(TEXTS, 0).search(["zzz"], 3)
    assert found.ids_QK.tolist() == [[0, 1, 2]]
    assert found.scores_QK.tolist() == [[0.0, 0.0, 0.0]]


def test_ties_at_rank_k_take_the_lowest_ids():
    index = BM25().create(["same word"] * 30 + ["other"], 0)
    assert index.search(["word"], 4).ids_QK.tolist() == [[0, 1, 2, 3]]


def test_a_corpus_without_words(tmp_path: Path):
    index = BM25().create(["", "of the"], 0)
    index.save(tmp_path)
    assert BM25().load(tmp_path).search(["of"], 2).ids_QK.tolist() == [[0, 1]]


def test_loaded_postings_are_memory_mapped(tmp_path: Path):
    BM25().create(TEXTS, 0).save(tmp_path)
    matrix = BM25().load(tmp_path)._scorer.scores
    assert isinstance(matrix["data"], np.memmap)
    assert isinstance(matrix["indices"], np.memmap)


def test_stop_words_come_from_the_file_that_was_built(tmp_path: Path):
    """A query must be read as the passages were, whatever the options of the moment say."""
    BM25(stopwords=None).create(TEXTS, 0).save(tmp_path)
    assert BM25(stopwords="en").load(tmp_path).search(["the"], 1).scores_QK[0, 0] > 0


def test_bm25s_does_not_talk(caplog):
    with caplog.at_level(logging.DEBUG):
        BM25().create(["one two", "three"], 0)
    assert not caplog.records

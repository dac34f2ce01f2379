"""How near documents are to questions: the order in which hard distractors enter a growing corpus.

A corpus that grows by documents in hash order grows mostly by what no question would be given anyway. One that grows by
the nearest documents first is as hard as its size allows: what a retriever confuses with gold is there from the start.

Each question ranks documents by BM25 (a document by its best passage), and the rankings of all questions are fused:
score(d) = sum over questions of 1 / (c + rank of d), ranks from 1 (Cormack, Clarke and Buettcher 2009, eq. 1). A
document that no question finds scores 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rag_exp.retrieval.encoders import passage_text
from rag_exp.retrieval.lexical import BM25

if TYPE_CHECKING:
    import numpy as np

DEPTH = 100  # passages that a question ranks
RANK_CONSTANT = 60  # c
_QUESTIONS = 1024  # searched at once


def nearness_identity() -> dict[str, Any]:
    """What the order of distractors depends on, beside the corpus and the questions."""
    return {"bm25": BM25().identity(), "depth": DEPTH, "rank_constant": RANK_CONSTANT}


def by_bm25(
    questions: Sequence[str], texts: Iterable[tuple[str, str]], doc_ends: np.ndarray, depth: int = DEPTH
) -> np.ndarray:
    """The fused score of every document.

    Args:
        questions: whose rankings are fused; their order changes nothing.
        texts: (title, text) of every passage, the documents' passages one after the other.
        doc_ends: int64 [documents], cumulative passage counts.
        depth: passages that a question ranks; of those tied at the last place the first ones.

    Returns:
        float64 [documents], at least 0.
    """
    import numpy as np

    index = BM25().create((passage_text(title, text) for title, text in texts), seed=0)
    width = min(depth, index.size)
    places = []  # document * width + rank, of every document that a question found
    for start in range(0, len(questions), _QUESTIONS):
        found = index.search(questions[start : start + _QUESTIONS], width)
        documents_QK = np.searchsorted(doc_ends, found.ids_QK, side="right")
        for documents, shares_words in zip(documents_QK, found.mask_QK & (found.scores_QK > 0), strict=True):
            _, best = np.unique(documents[shares_words], return_index=True)
            places.append(documents[np.sort(best)] * width + np.arange(len(best)))
    place = np.sort(np.concatenate(places)) if places else np.empty(0, np.int64)  # so that sums do not depend on order
    return np.bincount(place // width, 1 / (RANK_CONSTANT + 1 + place % width), minlength=len(doc_ends))

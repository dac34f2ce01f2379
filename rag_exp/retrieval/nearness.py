"""How near documents are to questions: the order in which hard distractors enter a growing corpus.

A corpus that grows by documents in hash order grows mostly by what no question would be given anyway. One that grows by
the nearest documents first is as hard as its size allows: what a retriever confuses with gold is there from the start.

Each question ranks documents (a document by its best passage), and the rankings of all questions are fused:
score(d) = sum over questions of 1 / (c + rank of d), ranks from 1 (Cormack, Clarke and Buettcher 2009, eq. 1). A
document that no question finds scores 0. They rank by BM25, or by inner products of vectors whose encoder has learnt
nothing from this corpus, because whatever is trained on it comes after its order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rag_exp.retrieval.encoders import passage_text
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.lexical import BM25

if TYPE_CHECKING:
    import numpy as np

DEPTH = 100  # passages that a question ranks
RANK_CONSTANT = 60  # c
_QUESTIONS = 1024  # searched at once by BM25, which holds a score of each for every passage
_VECTORS = 16_384  # questions that read the passages' vectors together, and passages that are read at once


def nearness_identity() -> dict[str, Any]:
    """What the order of distractors by BM25 depends on, beside the corpus and the questions."""
    return {"bm25": BM25().identity(), **fusion_identity()}


def fusion_identity() -> dict[str, Any]:
    """What the fused score of given rankings depends on."""
    return {"depth": DEPTH, "rank_constant": RANK_CONSTANT}


def by_bm25(
    questions: Sequence[str], texts: Iterable[tuple[str, str]], doc_ends: np.ndarray, depth: int = DEPTH
) -> np.ndarray:
    """The fused score of every document by BM25. A passage that shares no word with a question is not found by it.

    Args:
        questions: whose rankings are fused; their order changes nothing.
        texts: (title, text) of every passage, the documents' passages one after the other.
        doc_ends: int64 [documents], cumulative passage counts.
        depth: passages that a question ranks; of those tied at the last place the first ones.

    Returns:
        float64 [documents], at least 0.
    """
    index = BM25().create((passage_text(title, text) for title, text in texts), seed=0)
    width = min(depth, index.size)
    found = (index.search(questions[i : i + _QUESTIONS], width) for i in range(0, len(questions), _QUESTIONS))
    return _fused(((f.ids_QK, f.mask_QK & (f.scores_QK > 0)) for f in found), doc_ends, width)


def by_vectors(
    queries_QD: np.ndarray, blocks: Sequence[np.ndarray], doc_ends: np.ndarray, depth: int = DEPTH
) -> np.ndarray:
    """The fused score of every document by exact inner products.

    Memory holds one part of a block and the best passages of some questions, however large the corpus.

    Args:
        queries_QD: of the questions whose rankings are fused, [Q, D].
        blocks: vectors of every passage, [rows, D] each, ids running on; the documents' passages one after the other.
        doc_ends, depth: as in :func:`by_bm25`.

    Returns:
        float64 [documents], at least 0.

    Raises:
        DataError: a vector holds NaN or infinity (its row is named), or widths differ.
    """

    def parts() -> Iterable[np.ndarray]:
        return (block[i : i + _VECTORS] for block in blocks for i in range(0, len(block), _VECTORS))

    found = (exact_topk(queries_QD[i : i + _VECTORS], parts(), depth) for i in range(0, len(queries_QD), _VECTORS))
    return _fused(((f.ids_QK, f.mask_QK) for f in found), doc_ends, depth)


def _fused(rankings: Iterable[tuple[np.ndarray, np.ndarray]], doc_ends: np.ndarray, width: int) -> np.ndarray:
    """The fused score of every document, of passages ranked by some questions after others: ids and which count, [Q, K]
    with K at most ``width``."""
    import numpy as np

    places = []  # document * width + rank, of every document that a question found
    for ids_QK, counts_QK in rankings:
        documents_QK = np.searchsorted(doc_ends, ids_QK, side="right")
        for documents, counts in zip(documents_QK, counts_QK, strict=True):
            _, best = np.unique(documents[counts], return_index=True)
            places.append(documents[counts][np.sort(best)] * width + np.arange(len(best)))
    place = np.sort(np.concatenate(places)) if places else np.empty(0, np.int64)  # so that sums do not depend on order
    return np.bincount(place // width, 1 / (RANK_CONSTANT + 1 + place % width), minlength=len(doc_ends))

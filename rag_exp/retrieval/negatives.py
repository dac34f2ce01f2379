"""Hard negatives: passages that look like an answer to a question and are not its gold.

In-batch negatives alone teach a retriever to tell topics apart, which is soon done; what it then lacks is telling
the right passage from its neighbours: the same fact of another entity, another fact of the same entity. Three
sources find such neighbours in any corpus, and need no labels beyond the gold rows:

* ``document``: other passages of the gold passage's document;
* ``bm25``: passages that BM25 ranks high for the question (Karpukhin et al. 2020);
* ``encoder``: passages that the encoder itself ranks high (Xiong et al. 2021, ANCE, without the refresh).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag_exp.core.rng import numpy_rng
from rag_exp.retrieval.results import NOTHING, SearchResult

if TYPE_CHECKING:
    import numpy as np

    from rag_exp.retrieval.encoders import PassageTexts


def from_search(found: SearchResult, pool_rows: np.ndarray, gold: Sequence[Sequence[int]], count: int) -> np.ndarray:
    """The best ``count`` of each question's search result that are not its gold.

    Args:
        found: ids are positions in ``pool_rows``; wide enough is ``count`` plus the most gold rows of a question.
        pool_rows: corpus row of each searched passage.
        gold: gold rows of each question.
        count: how many to keep.

    Returns:
        int64 [Q, count] corpus rows, best first, -1 where there are no more.
    """
    import numpy as np

    out = np.full((len(found), count), NOTHING, np.int64)
    for q, (ids, mask, own) in enumerate(zip(found.ids_QK, found.mask_QK, gold, strict=True)):
        rows = pool_rows[ids[mask]]
        rows = rows[~np.isin(rows, own)][:count]
        out[q, : len(rows)] = rows
    return out


def from_document(gold: Sequence[Sequence[int]], doc_ends: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Up to ``count`` passages of the first gold passage's document, gold left out, drawn under ``seed``.

    Returns:
        int64 [Q, count], -1 where the document has no more.
    """
    import numpy as np

    out = np.full((len(gold), count), NOTHING, np.int64)
    for q, own in enumerate(gold):
        document = int(np.searchsorted(doc_ends, own[0], side="right"))
        start = int(doc_ends[document - 1]) if document else 0
        rows = np.setdiff1d(np.arange(start, int(doc_ends[document])), own)
        rows = numpy_rng(seed, "document negatives", q).permutation(rows)[:count]
        out[q, : len(rows)] = rows
    return out


def without_answers(rows_QC: np.ndarray, answers: Sequence[Sequence[str]], passages: PassageTexts) -> np.ndarray:
    """``rows_QC`` with -1 in place of passages that hold one of the question's answers.

    A passage without a gold label that holds the answer is often right, too. "Holds" is the match of answer coverage.
    """
    import numpy as np

    from rag_exp.data.normalise import holds, searchable

    wanted = np.unique(rows_QC[rows_QC >= 0])
    texts = {int(r): searchable(text) for r, (_, text) in zip(wanted, passages.texts(wanted), strict=True)}
    out = rows_QC.copy()
    for q, accepted in enumerate(answers):
        for c, row in enumerate(rows_QC[q]):
            if row >= 0 and holds(texts[int(row)], accepted):
                out[q, c] = NOTHING
    return out

"""How much of what should be found was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag_exp.retrieval.results import SearchResult

if TYPE_CHECKING:
    import numpy as np

RANKS = (1, 5, 20)
_SAME_SCORE = 1e-5  # float32 inner products of one pair differ so much, relative, between two ways of summing


def recall_against(found: SearchResult, exact: SearchResult, k: int, exact_scores: bool) -> float | None:
    """Mean share of the exact top ``k`` that is among the first ``k`` found; None without queries or passages.

    Args:
        found: the result of an index.
        exact: the exact result over the same vectors, at least ``k`` wide.
        k: at most both widths.
        exact_scores: whether ``found`` holds true inner products. Then a passage that ties with the exact k-th counts
            as found, whichever of the tied ones it is (as in ann-benchmarks): near-duplicates are not misses.
    """
    import numpy as np

    found, exact = found.first(k), exact.first(k)
    wanted_Q = exact.mask_QK.sum(axis=1)
    if not len(found) or not wanted_Q.any():
        return None
    hit_QK = (found.ids_QK[:, :, None] == exact.ids_QK[:, None, :]).any(axis=2)
    if exact_scores:
        last_Q1 = np.where(exact.mask_QK, exact.scores_QK, np.inf).min(axis=1, keepdims=True)
        hit_QK |= found.scores_QK >= last_Q1 - _SAME_SCORE * np.abs(last_Q1)
    hits_Q = np.minimum((hit_QK & found.mask_QK).sum(axis=1), wanted_Q)
    asked = wanted_Q > 0
    return float((hits_Q[asked] / wanted_Q[asked]).mean())


def gold_hits(found: SearchResult, gold: Sequence[Sequence[int]], k: int) -> np.ndarray:
    """bool [Q]: whether any gold row of the question is among its first ``k``; False for questions without gold."""
    import numpy as np

    ids_QK = found.first(k).ids_QK
    return np.array([bool(set(rows) & set(ids.tolist())) for rows, ids in zip(gold, ids_QK, strict=True)], dtype=bool)

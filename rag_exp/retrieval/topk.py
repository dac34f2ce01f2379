"""The top-k artifact: what an index finds for a set of questions, and how that compares with exact search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.retrieval.index import BuiltIndex
from rag_exp.retrieval.recall import RANKS, recall_against
from rag_exp.retrieval.results import SearchResult

if TYPE_CHECKING:
    import numpy as np

_BATCH = 1024  # queries searched at once: a flat scan is memory-bound for few, its scores are large for many


def search_topk(
    index: BuiltIndex,
    queries: np.ndarray | Sequence[str],
    k: int,
    folder: Path,
    exact: SearchResult | None = None,
    no_exact_reason: str = "not asked for",
) -> dict[str, Any]:
    """Search all ``queries``, save the :class:`SearchResult` into ``folder`` and return its stats.

    Args:
        index: what to ask.
        queries: vectors [Q, D], or texts for an index that needs texts.
        k: width of the result.
        folder: made if missing.
        exact: the exact result for the same queries over the same passages, at least ``k`` wide (pass the result of
            ``exact_topk``); None where there is no such thing (BM25).
        no_exact_reason: why there is none, for the record.

    Returns:
        ``queries``, ``k``, ``search_seconds``, ``queries_per_second``, ``distances`` (vectors compared in all, null
        where unknown) and ``recall``: rank -> recall@rank against exact for ranks 1, 5, 20 and k, or null with
        ``recall_reason``.
    """
    parts, distances, seconds = [], 0, 0.0
    for start in range(0, len(queries), _BATCH):
        begin = time.perf_counter()
        parts.append(index.search(queries[start : start + _BATCH], k))
        seconds += time.perf_counter() - begin
        distances = None if distances is None or index.distances is None else distances + index.distances
    result = join_queries(parts, k)
    result.save(folder)
    stats: dict[str, Any] = {
        "queries": len(result),
        "k": k,
        "search_seconds": seconds,
        "queries_per_second": len(result) / seconds if seconds else None,
        "distances": distances,
        "recall": None,
    }
    if exact is None:
        stats["recall_reason"] = no_exact_reason
    elif not len(result) or not index.size:
        stats["recall_reason"] = "no questions" if index.size else "the index is empty"
    else:
        ranks = sorted({r for r in (*RANKS, k) if r <= k})
        stats["recall"] = {str(r): recall_against(result, exact, r, index.exact_scores) for r in ranks}
    return stats


def join_queries(parts: Sequence[SearchResult], k: int) -> SearchResult:
    """Results of consecutive queries as one."""
    import numpy as np

    if not parts:
        return SearchResult.empty(0, k)
    ids, scores = (np.concatenate(arrays) for arrays in zip(*((p.ids_QK, p.scores_QK) for p in parts), strict=True))
    return SearchResult.of(ids, scores, k)

"""The top-k artifact: what an index finds for a set of questions, how fast, and how that compares with exact search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rag_exp.retrieval.fidelity import missed_mass, prior_kl, true_scores
from rag_exp.retrieval.index import BuiltIndex
from rag_exp.retrieval.recall import RANKS, recall_against
from rag_exp.retrieval.results import SearchResult

if TYPE_CHECKING:
    import numpy as np

BATCH = 1024  # queries searched at once: a flat scan is memory-bound for few, its scores are large for many
_SAMPLE = 256  # queries of a batch that is searched for its speed alone
_SINGLE = 200  # queries asked one by one for their latency, as far as they fit into:
_SINGLE_SECONDS = 2.0


@dataclass(frozen=True)
class Reference:
    """What a search over vectors is compared with.

    Attributes:
        exact: the exact result for the same queries over the same passages, at least k wide, with its log-partition.
        blocks: the passages' vectors.
        temperature: of the prior.
    """

    exact: SearchResult
    blocks: Sequence[np.ndarray]
    temperature: float = 1.0


class Searched(NamedTuple):
    """What many queries found, the seconds it took, and the vectors compared and scored anew, over all of them."""

    result: SearchResult
    seconds: float
    distances: int | None
    rescored: int


def search_topk(
    index: BuiltIndex,
    queries: np.ndarray | Sequence[str],
    k: int,
    folder: Path,
    reference: Reference | None = None,
    no_exact_reason: str = "not asked for",
) -> dict[str, Any]:
    """Search all ``queries``, save the :class:`SearchResult` into ``folder`` and return its stats.

    With a reference, an index that is exact is not searched again but for its speed, and a result whose scores are
    exact is saved with the log-partition of the whole corpus.

    Args:
        index: what to ask.
        queries: vectors [Q, D], or texts for an index that needs texts.
        k: width of the result.
        folder: made if missing.
        reference: None where there is no such thing (BM25), or it is not wanted.
        no_exact_reason: why there is none, for the record.

    Returns:
        ``queries``, ``k``; ``search_seconds``, ``queries_per_second``, ``threads``; ``distances`` (vectors compared in
        all, null where unknown) and ``rescored`` (those of them that were scored anew); ``compares_codes``
        (whether the others are codes); ``recall``: rank -> recall@rank
        against exact for ranks 1, 5, 20 and k; ``prior_kl`` and ``prior_mass_missed`` (``retrieval/fidelity.py``),
        means over queries; ``latency_ms``. The three of exact search are null without a reference, with
        ``recall_reason``; no queries have no latency.
    """
    if reference is not None and index.is_exact:
        result = reference.exact.first(k)
        searched = search_all(index, queries[:_SAMPLE], k)
        distances: int | None = len(queries) * index.size
    else:
        searched = search_all(index, queries, k)
        result, distances = searched.result, searched.distances
        if reference is not None and index.exact_scores:
            result = result.with_log_partition(reference.exact.log_partition_Q)
    result.save(folder)
    stats: dict[str, Any] = {
        "queries": len(result),
        "k": k,
        "search_seconds": searched.seconds,
        "queries_per_second": len(searched.result) / searched.seconds if searched.seconds else None,
        "threads": _threads(),
        "distances": distances,
        "rescored": searched.rescored,
        "compares_codes": index.compares_codes,
        "recall": None,
        "prior_kl": None,
        "prior_mass_missed": None,
        "latency_ms": latency_ms(index, queries, k) if len(queries) else None,
    }
    if reference is None:
        stats["recall_reason"] = no_exact_reason
    elif not len(result) or not index.size:
        stats["recall_reason"] = "no questions" if index.size else "the index is empty"
    else:
        stats |= _against(index, result, queries, reference)
    return stats


def latency_ms(index: BuiltIndex, queries: np.ndarray | Sequence[str], k: int) -> dict[str, Any]:
    """``p50`` and ``p95`` of the wall time of one query, in milliseconds; ``queries``: how many were asked."""
    import numpy as np

    index.search(queries[:1], k)
    times: list[float] = []
    for q in range(min(len(queries), _SINGLE)):
        begin = time.perf_counter()
        index.search(queries[q : q + 1], k)
        times.append(1e3 * (time.perf_counter() - begin))
        if sum(times) > 1e3 * _SINGLE_SECONDS:
            break
    return {"p50": float(np.median(times)), "p95": float(np.quantile(times, 0.95)), "queries": len(times)}


def join_queries(parts: Sequence[SearchResult], k: int) -> SearchResult:
    """Results of consecutive queries as one."""
    import numpy as np

    if not parts:
        return SearchResult.empty(0, k)
    ids, scores = (np.concatenate(arrays) for arrays in zip(*((p.ids_QK, p.scores_QK) for p in parts), strict=True))
    return SearchResult.of(ids, scores, k)


def search_all(index: BuiltIndex, queries: np.ndarray | Sequence[str], k: int) -> Searched:
    """Ask ``queries`` in batches."""
    parts, distances, rescored, seconds = [], 0, 0, 0.0
    for start in range(0, len(queries), BATCH):
        begin = time.perf_counter()
        parts.append(index.search(queries[start : start + BATCH], k))
        seconds += time.perf_counter() - begin
        distances = None if distances is None or index.distances is None else distances + index.distances
        rescored += index.rescored
    return Searched(join_queries(parts, k), seconds, distances, rescored)


def _against(index: BuiltIndex, found: SearchResult, queries: np.ndarray, reference: Reference) -> dict[str, Any]:
    import numpy as np

    exact, k = reference.exact, found.k
    ranks = sorted({r for r in (*RANKS, k) if r <= k})
    stats: dict[str, Any] = {"recall": {str(r): recall_against(found, exact, r, index.exact_scores) for r in ranks}}
    if exact.log_partition_Q is not None:
        scores = found.scores_QK if index.exact_scores else true_scores(queries, reference.blocks, found.ids_QK)
        kl_Q = prior_kl(found, scores, exact.log_partition_Q, reference.temperature)
        stats["prior_kl"] = float(np.nanmean(kl_Q)) if np.isfinite(kl_Q).any() else None
        stats["prior_mass_missed"] = float(missed_mass(found, exact.first(k), reference.temperature).mean())
    return stats


def _threads() -> int:
    import faiss

    return int(faiss.omp_get_max_threads())

"""Exact search at every size of a corpus at once: what was ever among the best k while the corpus grew.

A passage among the best k of a prefix was among the best k of every shorter prefix that holds it, so it was so when
it came in. In random order about k (1 + ln(N / k)) passages a query ever are, however large the corpus: kept with
their scores, they hold the exact top-k of *every* prefix. A corpus grows by parts (shards of embeddings); each part's
history goes on from the one before and keeps its own passages alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rag_exp.core.errors import DataError
from rag_exp.retrieval.exact import as_vectors
from rag_exp.retrieval.partition import TILE, LogPartition
from rag_exp.retrieval.results import SearchResult

if TYPE_CHECKING:
    import numpy as np

CUT_ROWS = 8_192  # the log-partition is kept each time so many passages have come in


@dataclass(frozen=True, eq=False)
class History:
    """What one part of a corpus added to the history of Q queries. Its E entries are in no set order.

    Attributes:
        query_E, ids_E, scores_E: passage ``ids_E`` entered the best k of query ``query_E`` with this score. A few
            may not have: those that came in together with k better ones.
        best_Qk: float32, the k best scores until the end of the part, unsorted; -inf where there are fewer.
        cuts_C: int64, passages in the corpus at each cut; the last one is the end of the part.
        log_partition_CQ: float64, of the prefix up to each cut.
    """

    query_E: np.ndarray
    ids_E: np.ndarray
    scores_E: np.ndarray
    best_Qk: np.ndarray
    cuts_C: np.ndarray
    log_partition_CQ: np.ndarray

    def save(self, folder: Path) -> None:
        """Write one ``.npy`` file a field into ``folder`` (made if missing)."""
        import numpy as np

        folder.mkdir(parents=True, exist_ok=True)
        for name, array in vars(self).items():
            np.save(folder / f"{name.rpartition('_')[0]}.npy", array, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> History:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: files are missing or unreadable.
        """
        import numpy as np

        try:
            names = cls.__dataclass_fields__
            return cls(**{n: np.load(folder / f"{n.rpartition('_')[0]}.npy", allow_pickle=False) for n in names})
        except (OSError, ValueError) as e:
            raise DataError(f"{folder}: no readable search history there ({e}).") from e


def grow(
    queries_QD: np.ndarray, vectors: np.ndarray, k: int, temperature: float = 1.0, before: History | None = None
) -> History:
    """The history of the part ``vectors`` [rows, D], which comes after the part that ``before`` is of.

    Ties are broken as everywhere: of equal scores the earlier passage stays.

    Raises:
        DataError: a vector holds NaN or infinity (its row is named).
    """
    import numpy as np

    queries = as_vectors(queries_QD, what="query")
    rows = 0 if before is None else int(before.cuts_C[-1])
    best = np.full((len(queries), k), -np.inf, np.float32) if before is None else before.best_Qk.copy()
    mass = LogPartition(queries, temperature, None if before is None else before.log_partition_CQ[-1])
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    cuts: list[int] = []
    masses: list[np.ndarray] = []
    start = 0
    while start < len(vectors):
        # Rows that come in together are held against the same k-th best: few at first, when it still moves much.
        step = min(TILE[1], max(k, rows), CUT_ROWS - start % CUT_ROWS)
        tile = as_vectors(vectors[start : start + step], first_row=rows)
        for q in range(0, len(queries), TILE[0]):
            scores = queries[q : q + TILE[0]] @ tile.T
            query, column = np.nonzero(scores > best[q : q + TILE[0]].min(axis=1, keepdims=True))
            entered = scores[query, column]
            entries.append((query + q, column + rows, entered))
            best[q : q + TILE[0]] = _best(best[q : q + TILE[0]], query, entered)
            mass.absorb(q, scores)
        start, rows = start + len(tile), rows + len(tile)
        if start % CUT_ROWS == 0 or start == len(vectors):
            cuts.append(rows)
            masses.append(mass.value_Q.copy())
    if not cuts:
        cuts, masses = [rows], [mass.value_Q]
    query_E, ids_E, scores_E = (np.concatenate(a) for a in zip(*entries, strict=True)) if entries else ([], [], [])
    return History(
        np.asarray(query_E, np.int32), np.asarray(ids_E, np.int64), np.asarray(scores_E, np.float32),
        best, np.array(cuts, np.int64), np.stack(masses),
    )  # fmt: skip


def _best(best: np.ndarray, query: np.ndarray, entered: np.ndarray) -> np.ndarray:
    """The k best scores of each query after ``entered`` scores of rows ``query`` (ascending) came in."""
    import numpy as np

    if not len(query):
        return best
    counts = np.bincount(query, minlength=len(best))
    candidates = np.full((len(best), best.shape[1] + counts.max()), -np.inf, np.float32)
    candidates[:, : best.shape[1]] = best
    candidates[query, best.shape[1] + np.arange(len(query)) - (np.cumsum(counts) - counts)[query]] = entered
    return np.partition(candidates, counts.max(), axis=1)[:, counts.max() :]


def exact_prefix(
    parts: Sequence[History],
    queries_QD: np.ndarray,
    blocks: Sequence[np.ndarray],
    size: int,
    k: int,
    temperature: float = 1.0,
) -> SearchResult:
    """The exact top ``k`` over the first ``size`` passages, with their log-partition.

    Args:
        parts: the histories of consecutive parts from the corpus's beginning, which reach to ``size`` or beyond.
        queries_QD: the queries they were grown with.
        blocks: the vectors; only those after the last cut before ``size`` are read.
        size: passages of the prefix.
        k: at most the k of the histories.
        temperature: the one they were grown with.

    Raises:
        ValueError: the histories are too short or too narrow.
    """
    import numpy as np

    if not parts or parts[-1].cuts_C[-1] < size or parts[0].best_Qk.shape[1] < k:
        raise ValueError(f"these histories do not hold the best {k} of {size} passages")
    queries = as_vectors(queries_QD, what="query")
    query, ids, scores = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("query_E", "ids_E", "scores_E")
    )
    query, ids, scores = query[ids < size], ids[ids < size], scores[ids < size]
    order = np.lexsort((ids, -scores, query))
    query, ids, scores = query[order], ids[order], scores[order]
    rank = np.arange(len(query)) - np.searchsorted(query, np.arange(len(queries)))[query]
    kept = rank < k
    ids_QK, scores_QK = np.full((len(queries), k), -1, np.int64), np.zeros((len(queries), k), np.float32)
    ids_QK[query[kept], rank[kept]], scores_QK[query[kept], rank[kept]] = ids[kept], scores[kept]
    return SearchResult.of(ids_QK, scores_QK, k, _log_partition(parts, queries, blocks, size, temperature))


def _log_partition(
    parts: Sequence[History], queries: np.ndarray, blocks: Sequence[np.ndarray], size: int, temperature: float
) -> np.ndarray:
    import numpy as np

    cuts = np.concatenate([p.cuts_C for p in parts])
    place = int(np.searchsorted(cuts, size, side="right")) - 1
    known = None if place < 0 else np.concatenate([p.log_partition_CQ for p in parts])[place]
    mass = LogPartition(queries, temperature, known)
    first = 0
    for block in blocks:
        start = max(0 if place < 0 else int(cuts[place]), first) - first
        if start < min(size - first, len(block)):
            mass.add(as_vectors(block[start : size - first], first_row=first + start))
        first += len(block)
    return mass.value_Q

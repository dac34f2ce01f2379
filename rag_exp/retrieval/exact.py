"""Exact inner-product search, streaming over blocks of vectors with a running top-k.

Memory holds one block, its scores inside faiss, and Q x k candidates, however large the corpus. With a ``device``
(a GPU) blocks are brought there one by one, and torch takes faiss's place.
Scores are float32 sums in an order that either chooses by block and batch shape. So ids are exact where
that arithmetic is exact (integer-valued vectors) or where scores differ by more than its rounding.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rag_exp.core.errors import DataError
from rag_exp.retrieval.on_device import DeviceScores
from rag_exp.retrieval.partition import LogPartition
from rag_exp.retrieval.products import matrix_products
from rag_exp.retrieval.results import SearchResult, merge

if TYPE_CHECKING:
    import numpy as np

_TIE_SCORES = 1 << 24  # scores held at once (64 MB) while ties at rank k are settled


def exact_topk(queries_QD: np.ndarray, blocks: Iterable[np.ndarray], k: int, device: str | None = None) -> SearchResult:
    """The ``k`` passages of highest inner product for each query, ties broken by the lowest id, also at rank k.

    Args:
        queries_QD: [Q, D], any float dtype and memory order.
        blocks: arrays [rows, D]; ids run on across them from 0. No blocks is an empty corpus.
        k: width of the result, at least 1; more than the corpus holds is padded.
        device: the torch device that compares, such as "cuda"; None: faiss does, on the processor.

    Raises:
        DataError: a query or passage vector holds NaN or infinity (the row is named), or widths differ.
    """
    running = RunningTopK(queries_QD, k, device=device)
    for block in blocks:
        running.add(block)
    return running.result


def exact_topk_nested(
    queries_QD: np.ndarray,
    blocks: Iterable[np.ndarray],
    k: int,
    sizes: Iterable[int],
    *,
    log_partition: bool = False,
    temperature: float = 1.0,
    device: str | None = None,
) -> dict[int, SearchResult]:
    """:func:`exact_topk` over each of the first ``sizes`` passages, in one pass over the longest of these prefixes.

    Args:
        queries_QD: [Q, D], any float dtype and memory order.
        blocks: arrays [rows, D]; ids run on across them from 0. What lies beyond the largest size is not read.
        k: width of the results, at least 1.
        sizes: lengths of prefixes, in any order, repeats allowed. A size beyond the corpus is the whole corpus, as in
            ``corpus[:size]``; size 0 finds nothing.
        log_partition: add up log sum exp(score / temperature) over each whole prefix too (it costs a second pass over
            the scores).
        temperature: of that sum alone; it changes neither ids nor scores.
        device: as in :func:`exact_topk`; the log-partition is added up on the processor.

    Returns:
        a result for each distinct size, smallest first, with ``log_partition_Q`` where asked for.

    Raises:
        DataError: as :func:`exact_topk`.
        ValueError: a negative size, or a temperature that is not positive.
    """
    waiting = deque(sorted(set(sizes)))
    if waiting and waiting[0] < 0:
        raise ValueError(f"a corpus of {waiting[0]} passages was asked for; sizes start at 0")
    running = RunningTopK(queries_QD, k, temperature if log_partition else None, device)
    found: dict[int, SearchResult] = {}
    if waiting and waiting[0] == 0:
        found[waiting.popleft()] = running.result
    for block in blocks if waiting else ():
        start = 0
        while waiting and start < len(block):
            part = block[start : start + waiting[0] - running.rows]
            running.add(part)
            start += len(part)
            if running.rows == waiting[0]:
                found[waiting.popleft()] = running.result
        if not waiting:
            break
    return found | dict.fromkeys(waiting, running.result)


class RunningTopK:
    """The exact top-k of the blocks seen so far.

    Args:
        queries_QD: [Q, D], any float dtype and memory order.
        k: width of the result, at least 1.
        temperature: the log-partition is added up for this one; None: it is not.
        device: as in :func:`exact_topk`.

    Attributes:
        result: over all rows added until now.
        rows: how many that is.
    """

    def __init__(self, queries_QD: np.ndarray, k: int, temperature: float | None = None, device: str | None = None):
        self._queries = as_vectors(queries_QD, what="query")
        self._there = None if device is None else DeviceScores(self._queries, device)
        self._k = k
        self._mass = None if temperature is None else LogPartition(self._queries, temperature)
        self.rows = 0
        self.result = self._with_mass(SearchResult.empty(len(self._queries), k))

    def add(self, block: np.ndarray) -> None:
        """Search one block and merge what it holds; its rows get the next ids."""
        vectors = as_vectors(block, first_row=self.rows)
        if len(vectors) and len(self._queries):
            if vectors.shape[1] != self._queries.shape[1]:
                raise DataError(
                    f"Queries have {self._queries.shape[1]} dimensions, passages {vectors.shape[1]}: "
                    "both must come from one encoder."
                )
            found = self._search(vectors)
            if self._mass is not None:
                self._mass.add(vectors)
            self.result = self._with_mass(merge([self.result, found], self._k) if self.rows else found)
        self.rows += len(vectors)

    def _with_mass(self, found: SearchResult) -> SearchResult:
        return found if self._mass is None else found.with_log_partition(self._mass.value_Q)

    def _search(self, vectors: np.ndarray) -> SearchResult:
        import numpy as np

        # One place more than asked shows whether a tie straddles rank k; any of the tied ones are kept.
        wide = min(self._k + 1, len(vectors))
        scores, ids = self._best(vectors, wide)
        if wide > self._k:
            edge = scores[:, self._k - 1]
            tied = np.flatnonzero((edge == scores[:, self._k]) & (edge >= self.result.scores_QK[:, -1]))
            scores, ids = scores[:, : self._k].copy(), ids[:, : self._k].copy()
            step = max(1, _TIE_SCORES // len(vectors))
            for start in range(0, len(tied), step):
                rows = tied[start : start + step]
                ids[rows], scores[rows] = top_of_scores(self._scores(rows, vectors), self._k)
        return SearchResult.of(np.where(ids >= 0, ids + self.rows, ids), scores, self._k)

    def _best(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows of the best ``k`` of a block for each query."""
        if self._there is not None:
            return self._there.best(vectors, k)
        import faiss

        with matrix_products(*self._queries.shape):
            return faiss.knn(self._queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)

    def _scores(self, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """All scores of the queries at ``rows`` with a block."""
        return self._queries[rows] @ vectors.T if self._there is None else self._there.all(rows, vectors)


def top_of_scores(scores_QR: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and scores of the top ``k`` (< R) of full score rows, unsorted; of those tied at rank k the lowest ids."""
    import numpy as np

    ids = np.empty((len(scores_QR), k), np.int64)
    for q, row in enumerate(scores_QR):
        edge = np.partition(row, len(row) - k)[len(row) - k]
        above = np.flatnonzero(row > edge)
        ids[q] = np.concatenate([above, np.flatnonzero(row == edge)[: k - len(above)]])
    return ids, np.take_along_axis(scores_QR, ids, axis=1)


def as_vectors(array: np.ndarray, what: str = "passage", first_row: int = 0) -> np.ndarray:
    """``array`` as C-contiguous float32 [rows, D], copied only where it must be; NaN and infinity refused.

    Raises:
        DataError: not two-dimensional, or a row that is not finite (its number counts from ``first_row``).
    """
    import numpy as np

    array = np.asarray(array)
    if array.ndim != 2:
        raise DataError(f"{what} vectors must be [rows, dimensions], not of shape {array.shape}.")
    vectors = np.ascontiguousarray(array, dtype=np.float32)
    # The sum of squares reads memory once; only when it overflows or is NaN are rows looked at one by one.
    if vectors.size and not math.isfinite(np.vdot(vectors, vectors)):
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            row = first_row + int(np.argmax(bad))
            raise DataError(
                f"The vector of {what} {row} holds NaN or infinity ({int(bad.sum())} such in this block). "
                "The encoder diverged or its weights are damaged: build it again or lower its learning rate."
            )
    return vectors


def rechunk(blocks: Iterable[np.ndarray], rows: int) -> Iterable[np.ndarray]:
    """The same vectors in blocks of exactly ``rows`` (the last may be shorter), as checked float32 arrays.

    An index built from these does not depend on how the vectors were stored.
    """
    import numpy as np

    held: list[np.ndarray] = []
    count = first = 0
    for block in blocks:
        start = 0
        while start < len(block):
            part = block[start : start + rows - count]
            held.append(part)
            count += len(part)
            start += len(part)
            if count == rows:
                yield as_vectors(held[0] if len(held) == 1 else np.concatenate(held), first_row=first)
                first, held, count = first + count, [], 0
    if count:
        yield as_vectors(held[0] if len(held) == 1 else np.concatenate(held), first_row=first)

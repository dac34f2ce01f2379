"""What every search returns, and how results over disjoint parts of a corpus become one.

Higher scores are better. A row is sorted by (score descending, id ascending), so that equal scores
have one order on every machine. Places without a passage come last: id -1, score -inf, mask False.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rag_exp.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np

NOTHING = -1


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The K best passages of each of Q queries. Make one by :meth:`of`, which holds the invariants.

    Attributes:
        ids_QK: int64 passage rows; -1 only where masked.
        scores_QK: float32, descending along K; -inf only where masked.
        mask_QK: bool, True where there is a passage. Masked places are the last ones of a row.
        log_partition_Q: float64, log sum exp(score / temperature) over *all* passages searched, found or not: what
            turns a score into the log-probability of its passage in the whole corpus. -inf over no passages; None
            where the search did not add it up.
    """

    ids_QK: np.ndarray
    scores_QK: np.ndarray
    mask_QK: np.ndarray
    log_partition_Q: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        ids: np.ndarray,
        scores: np.ndarray,
        k: int,
        log_partition: np.ndarray | None = None,
        distinct: bool = False,
    ) -> SearchResult:
        """Sort, cut and pad candidates to a result of width ``k``.

        Args:
            ids: integers [Q, C], any C; a negative id (faiss pads with -1) means "nothing here".
            scores: [Q, C], higher is better; ignored where the id is negative.
            k: width wanted, at least 1.
            log_partition: [Q], where it is known.
            distinct: the caller knows that no id occurs twice in a row: it is not looked at.

        Raises:
            ValueError: shapes differ, ``k`` < 1, a score is NaN or infinite, or an id occurs twice in a row.
        """
        import numpy as np

        ids = np.asarray(ids, dtype=np.int64)
        scores = np.asarray(scores, dtype=np.float32)
        if ids.shape != scores.shape or ids.ndim != 2 or k < 1:
            raise ValueError(f"ids {ids.shape} and scores {scores.shape} must be equal [Q, C] shapes, k={k} at least 1")
        if not _in_order(ids, scores):
            ids, scores = _ordered(ids, scores)
        if not (distinct or _distinct(ids)):
            raise ValueError("a passage occurs twice in one row; results over overlapping parts cannot be merged")
        ids, scores = _fit(ids, k, NOTHING), _fit(scores, k, -np.inf)
        mask = ids >= 0
        for array in (ids, scores, mask):
            array.setflags(write=False)
        return cls(ids, scores, mask, None if log_partition is None else _mass(log_partition, len(ids)))

    @classmethod
    def empty(cls, queries: int, k: int) -> SearchResult:
        """All masked: what searching an empty corpus finds."""
        import numpy as np

        return cls.of(np.empty((queries, 0), np.int64), np.empty((queries, 0), np.float32), k)

    def __len__(self) -> int:
        return self.ids_QK.shape[0]

    @property
    def k(self) -> int:
        return self.ids_QK.shape[1]

    def first(self, k: int) -> SearchResult:
        """The best ``k`` of each row; ``k`` must not exceed the width."""
        if not 1 <= k <= self.k:
            raise ValueError(f"asked for the first {k} of a result of width {self.k}")
        return SearchResult(self.ids_QK[:, :k], self.scores_QK[:, :k], self.mask_QK[:, :k], self.log_partition_Q)

    def of_queries(self, rows: np.ndarray | slice) -> SearchResult:
        """The result of some of the queries, in the order of ``rows``."""
        mass_Q = None if self.log_partition_Q is None else self.log_partition_Q[rows]
        return SearchResult(self.ids_QK[rows], self.scores_QK[rows], self.mask_QK[rows], mass_Q)

    def with_log_partition(self, log_partition_Q: np.ndarray | None) -> SearchResult:
        """The same passages, with this log-partition (or none)."""
        mass_Q = None if log_partition_Q is None else _mass(log_partition_Q, len(self))
        return SearchResult(self.ids_QK, self.scores_QK, self.mask_QK, mass_Q)

    def save(self, folder: Path) -> None:
        """Write ``ids.npy``, ``scores.npy`` and, where known, ``log_partition.npy`` into ``folder``."""
        import numpy as np

        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "ids.npy", self.ids_QK, allow_pickle=False)
        np.save(folder / "scores.npy", self.scores_QK, allow_pickle=False)
        if self.log_partition_Q is not None:
            np.save(folder / "log_partition.npy", self.log_partition_Q, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> SearchResult:
        """Read what :meth:`save` wrote, the invariants checked anew.

        Raises:
            DataError: files are missing or hold something else.
        """
        import numpy as np

        try:
            ids = np.load(folder / "ids.npy", allow_pickle=False)
            scores = np.load(folder / "scores.npy", allow_pickle=False)
            file = folder / "log_partition.npy"
            mass = np.load(file, allow_pickle=False) if file.exists() else None
            found = cls.of(ids, scores, ids.shape[1], mass)
        except (OSError, ValueError, IndexError) as e:
            raise DataError(f"{folder}: no readable search result there ({e}).") from e
        return found


def merge(results: Sequence[SearchResult], k: int) -> SearchResult:
    """The exact top ``k`` over parts that hold disjoint passages.

    Each part must be its own exact top k' with k' >= k (padded where the part holds fewer passages);
    then the best k of the union are among the candidates, ties at rank k included (lowest ids). The
    log-partitions add up where every part has one.

    Raises:
        ValueError: no parts, different numbers of queries, a part narrower than ``k``, or a passage in two parts.
    """
    import numpy as np

    if not results:
        raise ValueError("nothing to merge")
    if any(r.k < k for r in results):
        raise ValueError(f"a part of width {min(r.k for r in results)} cannot give the best {k}")
    ids = np.concatenate([r.ids_QK for r in results], axis=1)
    masses = [r.log_partition_Q for r in results if r.log_partition_Q is not None]
    mass_Q = np.logaddexp.reduce(masses) if len(masses) == len(results) else None
    return SearchResult.of(ids, np.concatenate([r.scores_QK for r in results], axis=1), k, mass_Q)


def _mass(log_partition: np.ndarray, queries: int) -> np.ndarray:
    """``log_partition`` as a read-only float64 array of its own, checked."""
    import numpy as np

    mass_Q = np.array(log_partition, dtype=np.float64)
    if mass_Q.shape != (queries,) or np.isnan(mass_Q).any():
        raise ValueError(f"the log-partition of {queries} queries must be as many numbers, none of them NaN")
    mass_Q.setflags(write=False)
    return mass_Q


def _in_order(ids: np.ndarray, scores: np.ndarray) -> bool:
    """Whether all places are passages of finite, strictly falling scores: nothing to sort, as faiss mostly gives it."""
    import numpy as np

    # The sum of squares is finite where all scores are, and cheap; where it overflows they are sorted for nothing.
    return (
        ids.size > 0
        and math.isfinite(np.vdot(scores, scores))
        and bool((scores[:, :-1] > scores[:, 1:]).all())
        and bool(ids.min() >= 0)
    )


def _ordered(ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows sorted by (score descending, id ascending), what is nothing last; scores that are not finite refused.

    faiss sorts by score but orders ties as it likes.
    """
    import numpy as np

    mask = ids >= 0
    ids = np.where(mask, ids, NOTHING)
    scores = np.where(mask, scores, np.float32(-np.inf))
    finite = np.isfinite(scores)
    if not (finite | ~mask).all():
        row = int(np.argwhere(~finite & mask)[0, 0])
        raise ValueError(f"query {row} has a score that is NaN or infinite")
    order = np.lexsort((ids, -scores), axis=-1)
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _distinct(ids: np.ndarray) -> bool:
    import numpy as np

    if ids.shape[1] < 2:
        return True
    ordered = np.sort(ids, axis=1)
    return not ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()


def _fit(array: np.ndarray, k: int, fill: float) -> np.ndarray:
    """``array`` cut or padded along its last axis to ``k`` columns, as an array of its own."""
    import numpy as np

    if array.shape[1] >= k:
        return np.array(array[:, :k], order="C")
    out = np.full((array.shape[0], k), fill, dtype=array.dtype)
    out[:, : array.shape[1]] = array
    return out

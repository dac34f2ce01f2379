"""The passages of the control arms, in the form that a search would give them.

*oracle* reads the gold passages and nothing else, *random* passages drawn evenly from the corpus. Their
scores are all zero, so that the prior over what is read is uniform. The third control, closed book,
reads nothing and so has no result at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag_exp.core.errors import DataError
from rag_exp.core.rng import numpy_rng
from rag_exp.retrieval.hop_pairs import gold_pairs
from rag_exp.retrieval.results import NOTHING, SearchResult

if TYPE_CHECKING:
    import numpy as np


def oracle_result(
    gold: Sequence[Sequence[int]], k: int, gold_of: Sequence[Sequence[int]] | None = None
) -> SearchResult:
    """The first ``k`` gold passages of each question, wherever they stand in the corpus.

    A question without gold passages gets an empty row (all masked): it is asked closed book.

    Args:
        gold: rows of the gold passages, by question; a repeated row counts once.
        k: at least 1; the result is as wide as the longest row needs, at most ``k``.
        gold_of: for each gold row, which gold id it belongs to. Where a gold passage was split into several
            rows, the first row of every id then comes before the second of any, so that all hops are read.

    Raises:
        DataError: no question has a gold passage.
    """
    if gold_of is not None:
        gold = [_by_turns(rows, of) for rows, of in zip(gold, gold_of, strict=True)]
    lists = [list(dict.fromkeys(int(row) for row in rows))[:k] for rows in gold]
    width = max(map(len, lists), default=0)
    if width == 0:
        raise DataError("source=oracle: no question has a gold passage; use another source or other questions.")
    return _even(lists, width)


def random_result(ids: Sequence[str], k: int, corpus_size: int, seed: int) -> SearchResult:
    """``k`` different passages for each question, drawn evenly from the corpus' first ``corpus_size`` rows.

    The draw is a pure function of the seed, the question's id, k and the corpus size; it may hit gold.

    Raises:
        DataError: the corpus has fewer than ``k`` passages.
    """
    if k > corpus_size:
        raise DataError(f"source=random: {k} different passages cannot be drawn from a corpus of {corpus_size}.")
    return _even(
        [numpy_rng(seed, "random_arm", id).choice(corpus_size, size=k, replace=False).tolist() for id in ids], k
    )


def oracle_pairs(gold: Sequence[Sequence[int]], gold_of: Sequence[Sequence[int]]) -> np.ndarray:
    """The gold path of each question as its only one, int64 [Q, 1, 2]; see :func:`gold_pairs`.

    A question with fewer than two gold passages has no path: it is asked closed book.

    Raises:
        DataError: no question has two gold passages.
    """
    pairs_QM2 = gold_pairs(gold, gold_of)[:, None]
    if not (pairs_QM2 >= 0).any():
        raise DataError(
            "source=oracle: no question has two gold passages; use another source, one hop or other questions."
        )
    return pairs_QM2


def random_pairs(ids: Sequence[str], count: int, corpus_size: int, seed: int) -> np.ndarray:
    """``count`` pairs of passages for each question, all different, int64 [Q, count, 2]; see :func:`random_result`.

    Raises:
        DataError: the corpus has fewer than twice as many passages.
    """
    return random_result(ids, 2 * count, corpus_size, seed).ids_QK.reshape(len(ids), count, 2)


def _by_turns(rows: Sequence[int], of: Sequence[int]) -> list[int]:
    """``rows`` with the first of each id, then the second of each, and so on."""
    seen: Counter[int] = Counter()
    turns = []
    for row, id in zip(rows, of, strict=True):
        turns.append((seen[id], row))
        seen[id] += 1
    return [row for _, row in sorted(turns, key=lambda t: t[0])]


def _even(lists: Sequence[Sequence[int]], width: int) -> SearchResult:
    import numpy as np

    ids: np.ndarray = np.full((len(lists), width), NOTHING, dtype=np.int64)
    for row, found in zip(ids, lists, strict=True):
        row[: len(found)] = found
    return SearchResult.of(ids, np.zeros(ids.shape, dtype=np.float32), width)

"""Exact rescoring: an index names more candidates than are wanted, and the vectors themselves decide among them.

Codes lose most where it matters least to a reader of a few passages: in the order of near neighbours. The vectors are
read from the embeddings' memory map, so that the index stays as small as it is (as in Jegou et al. 2011, R-candidates).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.retrieval.exact import as_vectors
from rag_exp.retrieval.fidelity import true_scores
from rag_exp.retrieval.index import BuiltIndex, VectorIndexOptions
from rag_exp.retrieval.results import SearchResult

if TYPE_CHECKING:
    import numpy as np


def rescored(index: BuiltIndex, options: VectorIndexOptions, blocks: Sequence[np.ndarray]) -> BuiltIndex:
    """``index`` behind the rescoring that ``options`` ask for, or as it is.

    Args:
        blocks: the vectors it was built over.
    """
    if not options.rescores:
        return index
    return RescoredIndex(index, blocks, options.rescore or 1, turns_factor=options.dial == "rescore")


class RescoredIndex(BuiltIndex):
    """Finds ``factor`` k candidates by ``inner``, scores them by the vectors and gives the best k. Scores are exact.

    Args:
        inner: any index over vectors, whole or in shards.
        blocks: the vectors, ids running on over them; read where they lie.
        factor: candidates for each passage wanted, at least 1.
        turns_factor: whether the factor is what :meth:`turn` sets; else it is the inner index's dial.
    """

    def __init__(self, inner: BuiltIndex, blocks: Sequence[np.ndarray], factor: int, turns_factor: bool = False):
        self._inner, self._blocks, self._factor, self._turns_factor = inner, blocks, factor, turns_factor
        self.size, self.compares_codes = inner.size, inner.compares_codes

    def search(self, queries: np.ndarray, k: int) -> SearchResult:
        queries = as_vectors(queries, what="query")
        found = self._inner.search(queries, max(1, min(self._factor * k, self.size)))
        self.rescored = int(found.mask_QK.sum())
        self.distances = None if self._inner.distances is None else self._inner.distances + self.rescored
        return SearchResult.of(found.ids_QK, true_scores(queries, self._blocks, found.ids_QK), k)

    def turn(self, value: int) -> None:
        if self._turns_factor:
            self._factor = value
        else:
            self._inner.turn(value)

    def save(self, folder: Path) -> None:
        self._inner.save(folder)

    def stats(self) -> dict[str, Any]:
        return self._inner.stats()

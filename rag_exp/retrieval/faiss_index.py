"""What the faiss-backed indexes share: searching, writing, reading, and sampling training vectors."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rag_exp.core.atomic import write_json
from rag_exp.core.errors import DataError
from rag_exp.core.rng import derive, numpy_rng
from rag_exp.retrieval.disk_lists import DiskLists, has_lists_beside, read_where_it_lies
from rag_exp.retrieval.exact import as_vectors, rechunk
from rag_exp.retrieval.faiss_costs import Comparisons
from rag_exp.retrieval.index import BuiltIndex, check_width
from rag_exp.retrieval.l2 import Lengths, inner_products
from rag_exp.retrieval.products import matrix_products
from rag_exp.retrieval.results import SearchResult
from rag_exp.retrieval.selection import search_assigned, selecting

if TYPE_CHECKING:
    import numpy as np

_PARAMETER = r"\s*\w+\s*=\s*\d+(\.\d+)?(e[+-]?\d+)?\s*"
_PARAMETERS = re.compile(rf"{_PARAMETER}(,{_PARAMETER})*")
_TIE_PLACES = 1 << 22  # places of results held at once while ties at rank k are settled
ADD_ROWS = 65_536  # vectors are added in blocks of this size, so that a build never depends on how they were stored


class Assigned(NamedTuple):
    """The P inverted lists that each of Q queries looks into, best first, and the scores of their centroids."""

    lists_QP: np.ndarray
    scores_QP: np.ndarray


class FaissIndex(BuiltIndex):
    """A faiss index over inner products. ``native`` is None when there are no passages.

    Args:
        native: the trained and filled faiss index.
        facts: what :meth:`stats` returns; saved and loaded with the index.
        on_disk: whether its inverted lists are filled on disk.

    Attributes:
        settles_ties: of passages tied at rank k those of the lowest ids are found, as shards of it find them too; else
            which of them is faiss's choice.
        lengths: of the vectors, where faiss goes by L2 distance; None where it goes by inner product.
    """

    settles_ties: bool = True
    lengths: Lengths | None = None

    def __init__(self, native: Any, facts: dict[str, Any], on_disk: bool = False):
        self.native, self._facts = native, facts
        self._on_disk, self._lists = on_disk, None
        self._comparisons = None if native is None else Comparisons(native)
        self._selected: int | None = None
        self._selector: Any = None
        self.size, self.dims = facts["passages"], facts["dims"]

    def add(self, content: Sequence[np.ndarray], threads: int | None = None) -> None:
        """Add blocks of vectors [rows, D], ids running on from those there are.

        Args:
            threads: that add; None: as many as faiss uses.

        Raises:
            DataError: a vector holds NaN or infinity (its row is named).
        """
        if self.lengths is not None:
            self.lengths.add(content)
        with faiss_threads(threads) if threads else nullcontext():
            if self._on_disk and self.native is not None:
                self._lists = DiskLists()
                self._lists.fill(self.native, rechunk(content, ADD_ROWS))
                self.size = self.native.ntotal
            else:
                for block in rechunk(content, ADD_ROWS):
                    self.native.add(block)
                    self.size += len(block)
        self._facts |= {"passages": self.size, **self._costs()}

    def select(self, first: int) -> None:
        import faiss

        self._selected = min(first, self.size)
        self._selector = faiss.IDSelectorRange(0, self._selected, True)

    @abstractmethod
    def _costs(self) -> dict[str, Any]:
        """``bytes`` and ``build_flops`` (with a reason where they are unknown) of what was added until now."""

    def search(self, queries: np.ndarray, k: int, assigned: Assigned | None = None) -> SearchResult:
        """As of every index; ``assigned``: the lists that each query looks into, where they are known."""
        queries = as_vectors(queries, what="query")
        if self.native is None or self._comparisons is None or not len(queries):
            self.distances = 0
            return SearchResult.empty(len(queries), k)
        check_width(queries, self.dims)
        self._comparisons.reset()
        # One place more than asked shows whether a tie straddles rank k.
        scores, ids = self._find(queries, k + self.settles_ties, assigned)
        self.distances = self._comparisons.of(len(queries), self._selected)
        if self.settles_ties:
            ids, scores = self._settled(queries, ids, scores, k, assigned)
        if self.lengths is not None:
            scores = inner_products(queries, ids, scores, self.lengths.squares_N)
        return SearchResult.of(ids, scores, k, distinct=True)

    def _find(self, queries: np.ndarray, k: int, assigned: Assigned | None) -> tuple[np.ndarray, np.ndarray]:
        with matrix_products(*queries.shape):
            if self._selected is None and assigned is None:
                return self.native.search(queries, k)
            if self._selected is None:
                return self.native.search_preassigned(queries, k, assigned.lists_QP, assigned.scores_QP)
            held = selecting(self.native, self._selector)
            if assigned is None:
                return self.native.search(queries, k, params=held)
            return search_assigned(self.native, queries, k, assigned.lists_QP, assigned.scores_QP, held)

    def _settled(
        self, queries: np.ndarray, ids: np.ndarray, scores: np.ndarray, k: int, assigned: Assigned | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """What was found, of those tied at rank k the lowest ids: tied queries are searched until all ties are seen."""
        import numpy as np

        same = scores[:, k - 1] == scores[:, k]
        if not same.any():
            return ids, scores
        tied = np.flatnonzero(same & (ids[:, k] >= 0))
        ids, scores = ids[:, :k].copy(), scores[:, :k].copy()
        wide, held = k, self.size if self._selected is None else self._selected
        while len(tied):
            wide = min(2 * wide + 2, held)
            step = max(1, _TIE_PLACES // wide)
            left = []
            for rows in np.split(tied, range(step, len(tied), step)):
                lists = None if assigned is None else Assigned(*(array[rows] for array in assigned))
                more_scores, more_ids = self._find(queries[rows], wide, lists)
                seen = (more_scores[:, -1] < more_scores[:, k - 1]) | (more_ids[:, -1] < 0) | (wide == held)
                best = SearchResult.of(more_ids[seen], more_scores[seen], k)
                ids[rows[seen]], scores[rows[seen]] = best.ids_QK, best.scores_QK
                left.append(rows[~seen])
            tied = np.concatenate(left)
        return ids, scores

    def save(self, folder: Path) -> None:
        import faiss

        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "index.json", self._facts)
        if self.native is not None:
            faiss.write_index(self.native, str(folder / "index.faiss"))
        if self._lists is not None:
            self._lists.keep(folder)
        if self.lengths is not None:
            self.lengths.save(folder)

    def stats(self) -> dict[str, Any]:
        return dict(self._facts)


def read_faiss(folder: Path, on_disk: bool = False) -> tuple[Any, dict[str, Any]]:
    """The faiss index (None if empty) and the facts that :meth:`FaissIndex.save` wrote.

    Args:
        on_disk: leave inverted lists on disk; those that were filled there stay there in any case.

    Raises:
        DataError: nothing readable there.
    """
    import faiss

    try:
        facts = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        file = folder / "index.faiss"
        if not facts["passages"] and not file.exists():
            return None, facts  # over an empty corpus none was even made; one that was trained alone is there
        on_disk = on_disk or has_lists_beside(file)
        return (read_where_it_lies(file) if on_disk else faiss.read_index(str(file))), facts
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        raise DataError(f"{folder}: no readable index there ({e}).") from e


def set_search(native: Any, search: str, named: str) -> None:
    """Set faiss's search parameters, as in ``nprobe=16,max_codes=1000``.

    Raises:
        DataError: the index, which is ``named`` so, does not take them.
    """
    import faiss

    if not _PARAMETERS.fullmatch(search):  # faiss reads as much of it as it can
        raise DataError(f"index.search: {search!r} is no list of parameters; write it like nprobe=16,max_codes=1000.")
    try:
        faiss.ParameterSpace().set_index_parameters(native, search)
    except RuntimeError as e:
        raise DataError(f"index.search: {named} does not take {search!r} ({reason(e)}).") from e


def without(name: str | None, search: str) -> str:
    """Search parameters but that of ``name``, which is set otherwise."""
    return ",".join(p for p in search.split(",") if not p.strip().startswith(f"{name}="))


def reason(error: Exception) -> str:
    """What faiss says, without where it says it."""
    said = str(error).rpartition("Error: ")[2] or str(error)
    return re.sub(r"^Error in .* at \S+:\d+: ", "", said)


def faiss_seed(seed: int, *names: str) -> int:
    """A seed that fits faiss's 32-bit signed fields."""
    return derive(seed, *names) & 0x7FFF_FFFF


def shape_of(blocks: Sequence[np.ndarray]) -> tuple[int, int]:
    """(rows, dims) of all blocks together; (0, 0) without blocks."""
    return sum(len(b) for b in blocks), (blocks[0].shape[1] if blocks else 0)


def sample_vectors(blocks: Sequence[np.ndarray], count: int, seed: int) -> np.ndarray:
    """``count`` distinct rows drawn uniformly under ``seed``, in row order; all rows if there are no more."""
    import numpy as np

    rows, dims = shape_of(blocks)
    count = min(count, rows)
    chosen = np.sort(numpy_rng(seed, "index training sample").choice(rows, size=count, replace=False))
    out = np.empty((count, dims), np.float32)
    start = filled = 0
    for block in blocks:
        here = chosen[filled : np.searchsorted(chosen, start + len(block))] - start
        out[filled : filled + len(here)] = block[here]
        filled, start = filled + len(here), start + len(block)
    bad = ~np.isfinite(out).all(axis=1)
    if bad.any():
        raise DataError(f"The vector of passage {int(chosen[np.argmax(bad)])} holds NaN or infinity.")
    return out


@contextmanager
def faiss_threads(count: int) -> Iterator[None]:
    """Let faiss use ``count`` OpenMP threads inside; its setting is process-wide, so it is put back."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)

"""How fast this machine learns, fills and asks faiss's indexes and exact search: small ones, timed.

What is learnt in many rounds is learnt in one, since neither the time of a round nor that of a search depends on how
good the centroids are. Vectors are clustered points (``points.py``). Wall time, on as many threads as searches have.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rag_exp.core.errors import DataError
from rag_exp.retrieval.encoders import Points
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.faiss_costs import Comparisons, root_of
from rag_exp.retrieval.faiss_index import faiss_threads, reason, set_search
from rag_exp.retrieval.history import grow

if TYPE_CHECKING:
    import numpy as np

LISTS = 64  # of an index that is tried
FLAT, EXACT = "flat", "exact"  # searches of this package, not of faiss
COARSE = "Flat"  # of the centroids of lists
_NARROW = 1  # of them is looked into, and all of them are
_LOOKED_THROUGH = 128
_FEWEST, _MOST = 1_024, 16_384  # vectors that are tried; as few as there may be centroids
_K = 10


class KMeans(NamedTuple):
    """A k-means of ``points`` vectors of ``dims`` to ``centroids``. faiss compares many otherwise than few."""

    dims: int
    centroids: int
    points: int


class Trial(NamedTuple):
    """An index that is tried.

    Attributes:
        string: of faiss's factory, its inverted lists being ``LISTS``; or ``FLAT``, ``EXACT``.
        dims: of its vectors.
        search: faiss's parameters; for a graph they are those of its building, too.
        threads: that add; None: as many as faiss uses.
        queries: asked at once. faiss compares whole vectors otherwise where these have 131,072 numbers or more.
    """

    string: str
    dims: int
    search: str = ""
    threads: int | None = None
    queries: int = 256

    @property
    def walks(self) -> bool:
        """Whether a vector is added and a query answered by walking through a graph."""
        return self.string.startswith("HNSW")

    def steps(self, size: int) -> float:
        """To what adding a vector and asking are in proportion, over so many: log2(size / 128) of a graph, else 1.

        So it was found from 1,000 vectors to 50,000; as few as 128 are looked through whole.
        """
        return max(1.0, math.log2(max(size, 1) / _LOOKED_THROUGH)) if self.walks else 1.0


class Speed(NamedTuple):
    """Seconds.

    Attributes:
        add: of adding a vector, a step.
        ask: of a query, a step, without:
        compare: of each vector that it would be compared with if lists were evenly filled; 0 for a graph.
    """

    add: float
    ask: float
    compare: float


def kmeans_speed(shape: KMeans) -> float:
    """Seconds that faiss takes for one of the 2 x dims x centroids x points operations of a round."""
    import faiss
    import numpy as np

    points = np.random.default_rng(0).standard_normal((shape.points, shape.dims), dtype=np.float32)
    clustering = faiss.Clustering(shape.dims, shape.centroids)
    clustering.niter, clustering.min_points_per_centroid = 1, 1
    clustering.max_points_per_centroid = shape.points
    return _timed(lambda: clustering.train(points, faiss.IndexFlatL2(shape.dims)), 2) / (2 * math.prod(shape))


def trial_speed(trial: Trial, seconds: float) -> Speed:
    """What a vector more and a query more take, of an index that is doubled while some ``seconds`` last.

    Raises:
        DataError: faiss makes no such index.
    """
    start, size = time.perf_counter(), 0
    encoder = Points(dims=trial.dims).create(None, None, 0)
    queries = encoder.encode([str(i) for i in range(trial.queries)], "question")
    tried = (_Own if trial.string in (FLAT, EXACT) else _Faiss)(trial, queries)
    most = _FEWEST if trial.string == COARSE else _MOST
    while not size or (size < most and time.perf_counter() - start < seconds / 3):  # once more takes two thirds
        new = max(_FEWEST, size)
        vectors = encoder.encode([str(i) for i in range(size, size + new)], "passage")
        size += new
        tried.learn(vectors)
        add = _timed(partial(tried.add, vectors)) / new
    ask, compare = tried.ask()
    return Speed(add / trial.steps(size), ask / trial.steps(size), compare)


class _Own:
    """Searches that read the vectors where they lie."""

    def __init__(self, trial: Trial, queries: np.ndarray):
        self._search = exact_topk if trial.string == FLAT else _grow
        self._queries, self._blocks = queries, []

    def learn(self, vectors: np.ndarray) -> None:
        pass

    def add(self, vectors: np.ndarray) -> None:
        self._blocks.append(vectors)

    def ask(self) -> tuple[float, float]:
        taken = _timed(lambda: self._search(self._queries, self._blocks, _K), 2)
        return 0.0, taken / len(self._queries) / sum(len(b) for b in self._blocks)


def _grow(queries: np.ndarray, blocks: list[np.ndarray], k: int) -> None:
    history = None
    for block in blocks:
        history = grow(queries, block, k, before=history)


class _Faiss:
    """An index of faiss's factory, learnt in one round from the first vectors."""

    def __init__(self, trial: Trial, queries: np.ndarray):
        import faiss

        self._trial, self._queries = trial, queries
        try:
            self._native = faiss.index_factory(trial.dims, trial.string, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as e:
            why = f"faiss cannot make {trial.string} over {trial.dims} dimensions ({reason(e)})"
            raise DataError(f"index.string: {why}.") from e
        self._set(trial.search)

    def learn(self, vectors: np.ndarray) -> None:
        import numpy as np

        if not self._native.is_trained:
            needed = _hurry(self._native)
            self._native.train(np.resize(vectors, (max(len(vectors), needed), vectors.shape[1])))

    def add(self, vectors: np.ndarray) -> None:
        with faiss_threads(self._trial.threads) if self._trial.threads else nullcontext():
            self._native.add(vectors)

    def ask(self) -> tuple[float, float]:
        if "IVF" not in self._trial.string:
            seconds = self._seconds()
            return (seconds, 0.0) if self._trial.walks else (0.0, seconds / self._native.ntotal)
        (few, near), (many, all_) = ((self._seconds(f"nprobe={n}"), self._compared()) for n in (_NARROW, LISTS))
        compare = max(0.0, (many - few) / (all_ - near))
        fuller = near / (all_ * _NARROW / LISTS)  # than others are the lists that queries look into
        return max(0.0, few - compare * near), compare * fuller

    def _seconds(self, search: str = "") -> float:
        """Of a query."""
        self._set(search)
        return _timed(lambda: self._native.search(self._queries, _K + 1), 2) / len(self._queries)

    def _compared(self) -> float:
        """Codes in the lists that a query looks into, its centroids left out."""
        counted, queries = Comparisons(self._native), len(self._queries)
        counted.reset()
        self._native.search(self._queries, _K + 1)
        return (counted.of(queries) or 0) / queries - LISTS

    def _set(self, search: str) -> None:
        if search:
            set_search(self._native, search, self._trial.string)


def _hurry(native: Any) -> int:
    """Let it learn in one round; from so many vectors at least."""
    root = root_of(native)
    codes = getattr(root, "pq", None)
    for clustering in (getattr(root, "cp", None), getattr(codes, "cp", None)):
        if clustering is not None:
            clustering.niter, clustering.min_points_per_centroid = 1, 1
    if hasattr(root, "do_polysemous_training"):
        root.do_polysemous_training = False
    return 0 if codes is None else codes.ksub


def _timed(work: Callable[[], object], times: int = 1) -> float:
    """Seconds of ``work``: the fewest of so many times."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)

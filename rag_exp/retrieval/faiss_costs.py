"""What a faiss index costs: the comparisons of its searches, as faiss counts them, and the operations of its build.

faiss counts what lists and graphs compare, in counters of the whole process; where every code is compared with every
query, their number is known without it. A build is k-means, projections and the nearest centroids of what is added,
whose operations follow from their sizes.
"""

from __future__ import annotations

from typing import Any

_OTHER = "faiss does not count what such an index costs to build"
# Root classes whose storage costs nothing beyond lists and product quantizers (which are counted).
_PLAIN = (
    "IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexScalarQuantizer", "IndexRaBitQ", "IndexRaBitQFastScan",
    "IndexPQ", "IndexPQFastScan", "IndexIVFFlat", "IndexIVFScalarQuantizer", "IndexIVFPQ", "IndexIVFPQFastScan",
    "IndexIVFRaBitQ", "IndexIVFRaBitQFastScan",
)  # fmt: skip


class Comparisons:
    """Counts the stored vectors or codes that searches of ``native`` are compared with, coarse centroids included.

    Attributes:
        known: whether they can be counted.
    """

    def __init__(self, native: Any):
        import faiss

        self._native = native
        self._counters: list[Any] = []
        self._centroids = 0
        self._exhaustive = False
        root, lists = root_of(native), faiss.try_extract_index_ivf(native)
        self.known = True
        if isinstance(root, faiss.IndexRefine):
            self.known = False  # it counts what it refines nowhere
        elif lists is not None:
            self._counters.append(faiss.cvar.indexIVF_stats)
            coarse = faiss.downcast_index(lists.quantizer)
            if isinstance(coarse, faiss.IndexFlat):
                self._centroids = lists.nlist
            elif isinstance(coarse, faiss.IndexHNSW):
                self._counters.append(faiss.cvar.hnsw_stats)
            else:
                self.known = False
        elif isinstance(root, faiss.IndexHNSW):
            self._counters.append(faiss.cvar.hnsw_stats)
        elif isinstance(root, (faiss.IndexFlatCodes, faiss.IndexFastScan)):
            self._exhaustive = True
        else:
            self.known = False

    def reset(self) -> None:
        """Count from zero."""
        for counter in self._counters:
            counter.reset()

    def of(self, queries: int, selected: int | None = None) -> int | None:
        """Comparisons since then, of a search of so many queries; None where they cannot be counted.

        Args:
            selected: passages that the search was held to; None: all.
        """
        if not self.known:
            return None
        held = self._native.ntotal if selected is None else selected
        total = queries * (held if self._exhaustive else self._centroids)
        for counter in self._counters:
            total += counter.ndis
        return total


def training_flops(native: Any, points: int) -> int | None:
    """Operations of having trained ``native`` on ``points`` vectors; None where they are not known."""
    if not points:
        return 0
    parts = _parts(native)
    if parts is None:
        return None
    dims, coarse, codes, _ = parts
    total = 0
    if coarse is not None:
        total += (
            2 * dims * coarse.nlist * coarse.cp.niter * min(points, coarse.nlist * coarse.cp.max_points_per_centroid)
        )
    if codes is not None:
        used = min(points, codes.ksub * codes.cp.max_points_per_centroid)
        total += 2 * dims * codes.ksub * codes.cp.niter * used
        total += 0 if coarse is None else 2 * dims * coarse.nlist * used  # codes are of residuals
    return total


def adding_flops(native: Any) -> tuple[int | None, str]:
    """Operations of adding one vector to ``native``, and why they are not known where they are None."""
    parts = _parts(native)
    if parts is None:
        return None, _OTHER
    dims, coarse, codes, projections = parts
    return 2 * dims * ((0 if coarse is None else coarse.nlist) + (0 if codes is None else codes.ksub)) + projections, ""


def root_of(native: Any) -> Any:
    """What is behind the projections."""
    import faiss

    found = faiss.downcast_index(native)
    return faiss.downcast_index(found.index) if isinstance(found, faiss.IndexPreTransform) else found


def _parts(native: Any) -> tuple[int, Any, Any, int] | None:
    """Dimensions, lists (or None), product quantizer (or None) and operations of projecting one vector; None where
    anything else is learnt or stored."""
    import faiss

    found, projections = faiss.downcast_index(native), 0
    if isinstance(found, faiss.IndexPreTransform):
        for i in range(found.chain.size()):
            step = faiss.downcast_VectorTransform(found.chain.at(i))
            if not isinstance(step, faiss.RandomRotationMatrix):
                return None
            projections += 2 * step.d_in * step.d_out
    root = root_of(native)
    if type(root).__name__ not in _PLAIN:
        return None
    lists = root if isinstance(root, faiss.IndexIVF) else None
    if lists is not None and not isinstance(faiss.downcast_index(lists.quantizer), faiss.IndexFlat):
        return None
    return root.d, lists, getattr(root, "pq", None), projections

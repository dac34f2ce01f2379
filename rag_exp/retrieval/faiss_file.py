"""A faiss index that was made elsewhere, in its file: what it is, how it numbers its vectors, and the vectors.

The file is mapped, not read: it is not copied, and what no search touches stays on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.core.errors import DataError
from rag_exp.retrieval.faiss_costs import root_of
from rag_exp.retrieval.faiss_index import reason

if TYPE_CHECKING:
    import numpy as np

_ROWS = 65_536  # stored vectors that are looked at at once
_FULL = ("IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexIVFFlat")  # that store vectors as they are
_DECODED = (*_FULL, "IndexScalarQuantizer", "IndexIVFScalarQuantizer")  # compared as vectors, not by tables or bits


@dataclass(frozen=True)
class FaissFile:
    """What the index of a file is.

    Attributes:
        type: faiss's name of it, without what projects vectors or numbers them before it.
        passages: vectors that it holds.
        dims: of queries.
        metric: "inner_product" or "l2".
        bytes: of the file.
        dial: the search parameter whose rise makes recall rise; None where every vector is compared in full.
        set_to: what the dial is set to in the file; None where it is no parameter of faiss.
        lists: inverted lists, 0 where there are none.
        links: of a node of a graph, in its lowest layer; 0 where there is none.
        exact_scores: vectors are stored as they are, so that scores are true inner products.
        compares_codes: queries are compared with codes by tables or bits.
        settles_ties: a search for more finds what one for less found, so that ties at rank k can be seen.
        selects: searches can be held to some of the vectors.
    """

    type: str
    passages: int
    dims: int
    metric: str
    bytes: int
    dial: str | None
    set_to: int | None
    lists: int
    links: int
    exact_scores: bool
    compares_codes: bool
    settles_ties: bool
    selects: bool


class OpenFile:
    """An index file, mapped.

    Args:
        file: where it is.

    Attributes:
        native: the index without the numbers that an IDMap gives to its vectors: what is searched.
        known: what it is.

    Raises:
        DataError: it is missing, or holds no index that can be searched by inner product or L2 distance.
    """

    def __init__(self, file: str):
        import faiss

        self._whole = self.native = _read(file)
        if isinstance(self._whole, faiss.IndexIDMap):
            self.native = faiss.downcast_index(self._whole.index)
            self.native.referenced_objects = [self._whole]  # which owns it
        self.known = _described(self.native, file)

    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """How the vectors are numbered, int64 [N] each: by searches of :attr:`native`, and by those of the file.

        They differ where an IDMap is around the index. Else both are those that were given to the lists of an inverted
        file, or positions.
        """
        import faiss
        import numpy as np

        root, own_N = root_of(self.native), np.arange(self.native.ntotal)
        if isinstance(root, faiss.IndexIVF):
            own_N = np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in _lists(root, with_codes=False))])
        if self._whole is self.native:
            return own_N, own_N
        return own_N, faiss.vector_to_array(self._whole.id_map)[own_N]

    def vectors(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Blocks of (numbers of :attr:`native` int64 [n], vectors float32 [n, D]); none where codes are stored."""
        import faiss
        import numpy as np

        if not self.known.exact_scores:
            return
        if isinstance(self.native, faiss.IndexIVF):
            yield from _lists(self.native, with_codes=True)
            return
        stored = faiss.downcast_index(getattr(self.native, "storage", self.native))
        for start in range(0, stored.ntotal, _ROWS):
            count = min(_ROWS, stored.ntotal - start)
            yield np.arange(start, start + count), stored.reconstruct_n(start, count)


def describe(file: str) -> FaissFile:
    """What the index in ``file`` is; found out once, as long as the file stays as it is.

    Raises:
        DataError: as :class:`OpenFile`.
    """
    try:
        stamp = Path(file).stat()
    except OSError as e:
        raise DataError(f"no file {file!r} (looked from {Path.cwd()}).") from e
    return _known(str(Path(file).resolve()), stamp.st_size, stamp.st_mtime_ns)


@lru_cache(maxsize=64)
def _known(file: str, size: int, changed: int) -> FaissFile:
    return OpenFile(file).known


def _read(file: str) -> Any:
    import faiss

    try:
        with open(file, "rb") as start:
            binary = start.read(2) == b"IB"
        if binary:
            raise DataError(f"{file}: an index of binary codes, compared by bits; one over float vectors is wanted.")
        return faiss.read_index(file, faiss.IO_FLAG_MMAP_IFC)
    except (OSError, RuntimeError) as e:
        raise DataError(f"{file}: no readable faiss index there ({reason(e)}).") from e


def _described(native: Any, file: str) -> FaissFile:
    import faiss

    metrics = {faiss.METRIC_INNER_PRODUCT: "inner_product", faiss.METRIC_L2: "l2"}
    if native.metric_type not in metrics:
        raise DataError(f"{file}: its vectors are compared by another measure than inner product or L2 distance.")
    if native.metric_type == faiss.METRIC_L2 and _normalises(native):
        raise DataError(
            f"{file}: L2 distances of vectors that it normalises itself do not tell inner products; make it by inner "
            "product, or normalise before."
        )
    root, lists = root_of(native), faiss.try_extract_index_ivf(native)
    if isinstance(root, faiss.IndexIDMap):
        raise DataError(f"{file}: its IDMap is not the outermost part; numbers that are given inside are not followed.")
    if lists is not None and isinstance(faiss.downcast_InvertedLists(lists.invlists), faiss.OnDiskInvertedLists):
        raise DataError(
            f"{file}: its inverted lists lie in a file of their own, by whose content nothing would be known; read it "
            "with faiss, put the lists into memory (ArrayInvertedLists), and write it whole."
        )
    stored = faiss.downcast_index(getattr(root, "storage", root))
    full, decoded = (type(stored).__name__ in names for names in (_FULL, _DECODED))
    in_full = full and not isinstance(native, faiss.IndexPreTransform)
    is_graph, refines = hasattr(root, "storage"), isinstance(root, (faiss.IndexRefine, faiss.IndexIVFPQR))
    scans = isinstance(root, (faiss.IndexIVF, faiss.IndexFlatCodes, faiss.IndexFastScan)) and not refines
    plain = type(root).__name__ in (*_FULL, "IndexScalarQuantizer", "IndexRaBitQ")
    dial, set_to, links = None if in_full and not is_graph else "rescore", None, 0
    if lists is not None:
        dial, set_to = "nprobe", lists.nprobe
    elif isinstance(root, faiss.IndexHNSW):
        dial, set_to, links = "efSearch", root.hnsw.efSearch, root.hnsw.nb_neighbors(0)
    metric = metrics[native.metric_type]
    return FaissFile(
        type=type(root).__name__,
        passages=native.ntotal,
        dims=native.d,
        metric=metric,
        bytes=Path(file).stat().st_size,
        dial=dial,
        set_to=set_to,
        links=links,
        lists=0 if lists is None else lists.nlist,
        exact_scores=in_full,
        compares_codes=not decoded,
        settles_ties=scans and metric == "inner_product",
        selects=(isinstance(root, (faiss.IndexIVF, faiss.IndexHNSW)) and not refines) or plain,
    )


def _normalises(native: Any) -> bool:
    import faiss

    if not isinstance(native, faiss.IndexPreTransform):
        return False
    steps = (faiss.downcast_VectorTransform(native.chain.at(i)) for i in range(native.chain.size()))
    return any(isinstance(step, faiss.NormalizationTransform) for step in steps)


def _lists(native: Any, with_codes: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ids int64 [n], vectors float32 [n, D]) of full vectors in inverted lists; without codes no vectors."""
    import faiss
    import numpy as np

    lists, none = native.invlists, np.empty((0, native.d), np.float32)
    for number in range(native.nlist):
        count = lists.list_size(number)
        ids = faiss.rev_swig_ptr(lists.get_ids(number), count).copy() if count else np.empty(0, np.int64)
        if not with_codes:
            yield ids, none
            continue
        for start in range(0, count, _ROWS):
            stop = min(count, start + _ROWS)
            codes = faiss.rev_swig_ptr(lists.get_codes(number), count * lists.code_size)
            part = codes[start * lists.code_size : stop * lists.code_size].copy()
            yield ids[start:stop], part.view(np.float32).reshape(stop - start, native.d)

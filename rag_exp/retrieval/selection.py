"""One index for every corpus size: a search held to the first passages of those that an index holds.

A smaller corpus is a prefix of a larger one, so an index over the larger can be searched as one over the smaller: its
lists, codes or graph are those that the whole corpus taught, and what is found is of the prefix alone. Against an index
built at each size this tells apart what a larger corpus does to the search and what it does to the index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def selecting(native: Any, selector: Any) -> Any:
    """faiss's search parameters: those that ``native`` is set to, held to the ids of ``selector``.

    Where ids lie in rising order in every list, as in all that are built here, faiss reads and counts only that part of
    a list which a range selects (lists for registers are read whole). A graph is walked through passages that are not
    selected.
    """
    import faiss

    index = faiss.downcast_index(native)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=selecting(index.index, selector))
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe, max_codes=index.max_codes)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(
            sel=selector,
            efSearch=index.hnsw.efSearch,
            bounded_queue=index.hnsw.search_bounded_queue,
            check_relative_distance=index.hnsw.check_relative_distance,
        )
    return faiss.SearchParameters(sel=selector)


def search_assigned(
    native: Any, queries_QD: np.ndarray, k: int, lists_QP: np.ndarray, scores_QP: np.ndarray, held: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and ids [Q, k] of a search that looks into known lists and is held to a selection.

    faiss has it, though its method in Python takes no parameters.

    Args:
        native: inverted lists, set to as many lists a query as are given.
        queries_QD: C-contiguous float32.
        lists_QP, scores_QP: the lists of each query, best first, and the scores of their centroids.
        held: what :func:`selecting` made of ``native``.
    """
    import faiss
    import numpy as np

    assert lists_QP.shape == scores_QP.shape == (len(queries_QD), held.nprobe)
    scores, ids = np.empty((len(queries_QD), k), np.float32), np.empty((len(queries_QD), k), np.int64)
    lists, centroids = np.ascontiguousarray(lists_QP, np.int64), np.ascontiguousarray(scores_QP, np.float32)
    asked, *others = map(faiss.swig_ptr, (queries_QD, lists, centroids, scores, ids))
    native.search_preassigned_c(len(queries_QD), asked, k, *others, False, held)
    return scores, ids

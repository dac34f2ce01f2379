"""From how few queries on faiss compares all pairs by a matrix product.

faiss (1.15) takes the pairs one by one as long as queries x dimensions are below 128,000: 256 queries of 384 dimensions
run at 8 GFLOP/s on a core that multiplies matrices at 110. A matrix product is faster from 4 queries on, at 32 to 768
dimensions. Older releases count queries alone, from 20 on, and are left as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

_QUERIES = 4
_COUNTS_NUMBERS = 1_000  # a threshold above it is one of numbers, not of queries


def matrix_products(queries: int, dims: int) -> AbstractContextManager[None]:
    """Within, so many ``queries`` of ``dims`` are compared by matrix products; fewer than 4 as faiss likes.

    The setting is the process's: outside it is put back, so that what is learnt (k-means) rounds as it always did.
    """
    return nullcontext() if queries < _QUERIES else _from_few_on(dims)


@contextmanager
def _from_few_on(dims: int) -> Iterator[None]:
    import faiss

    before = faiss.cvar.distance_compute_blas_threshold
    if before > _COUNTS_NUMBERS:
        faiss.cvar.distance_compute_blas_threshold = _QUERIES * dims
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before

"""How far the prior over what an index found is from the prior over the whole corpus.

p(z|x) is the softmax of exact scores / temperature over the whole corpus, q(z|x) that of the index's own scores over
what it found: what a reader is given. Both numbers need log Z of the whole corpus (``retrieval/partition.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag_exp.retrieval.embeddings import take_vectors
from rag_exp.retrieval.results import SearchResult

if TYPE_CHECKING:
    import numpy as np

_ROUNDINGS = 8  # of float32, by which two ways to the same score differ at most
_QUERIES, _NUMBERS = 256, 1 << 25  # whose candidates' vectors are held at once, and their numbers at most (128 MB)


def true_scores(queries_QD: np.ndarray, blocks: Sequence[np.ndarray], ids_QK: np.ndarray) -> np.ndarray:
    """Inner products, float32 [Q, K], of each query with the passages ``ids_QK``; -inf where an id is negative."""
    import numpy as np

    scores_QK = np.full(ids_QK.shape, -np.inf, np.float32)
    step = max(1, min(_QUERIES, _NUMBERS // max(1, ids_QK.shape[1] * queries_QD.shape[1])))
    for start in range(0, len(ids_QK), step):
        ids = ids_QK[start : start + step]
        if (ids >= 0).any():
            vectors = take_vectors(blocks, ids)
            here = np.einsum("qd,qkd->qk", queries_QD[start : start + step], vectors, dtype=np.float32)
            scores_QK[start : start + step] = np.where(ids >= 0, here, -np.inf)
    return scores_QK


def prior_kl(found: SearchResult, exact_QK: np.ndarray, log_partition_Q: np.ndarray, temperature: float) -> np.ndarray:
    """KL(q || p) of each query in nats, float64 [Q]; NaN for a query that found nothing.

    Where the index's scores are exact it is log Z(corpus) - log Z(retrieved): what the best k leave out, and no less.
    Scores are float32, so that at a temperature T it is known to about 1e-7 |score| / T: what rounding alone puts below
    0 is 0.

    Args:
        found: what the index found, with its own scores.
        exact_QK: exact scores of the same passages.
        log_partition_Q: log Z of the whole corpus at this temperature.
    """
    import numpy as np

    own_QK = np.where(found.mask_QK, found.scores_QK / temperature, -np.inf).astype(np.float64)
    with np.errstate(invalid="ignore"):  # a query that found nothing
        logq_QK = own_QK - np.logaddexp.reduce(own_QK, axis=1, keepdims=True)
    logp_QK = exact_QK.astype(np.float64) / temperature - log_partition_Q[:, None]
    terms_QK = np.where(found.mask_QK, np.exp(logq_QK) * (logq_QK - logp_QK), 0.0)
    kl_Q = terms_QK.sum(axis=1)
    largest_Q = np.abs(np.where(found.mask_QK, exact_QK, 0.0)).max(axis=1, initial=0.0)
    rounding_Q = _ROUNDINGS * np.finfo(np.float32).eps * largest_Q / temperature
    kl_Q = np.where((kl_Q < 0) & (kl_Q > -rounding_Q), 0.0, kl_Q)
    return np.where(found.mask_QK.any(axis=1), kl_Q, np.nan)


def missed_mass(found: SearchResult, exact: SearchResult, temperature: float) -> np.ndarray:
    """Share of the whole corpus's prior on passages that ``exact`` holds and ``found`` does not, float64 [Q].

    Args:
        exact: the exact top k with its log-partition at this temperature.
    """
    import numpy as np

    assert exact.log_partition_Q is not None
    missed_QK = exact.mask_QK & ~(exact.ids_QK[:, :, None] == found.ids_QK[:, None, :]).any(axis=2)
    logp_QK = exact.scores_QK.astype(np.float64) / temperature - exact.log_partition_Q[:, None]
    return np.where(missed_QK, np.exp(logp_QK), 0.0).sum(axis=1)

"""The log-partition of a prior over a whole corpus: log Z = log sum over passages of exp(score / temperature).

Top-k search renormalises over what it found. With log Z, log p(z|x) = score / temperature - log Z holds over the whole
corpus, so that a marginal over k passages is a lower bound of the full one, comparable across k.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_exp.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np

TILE = (256, 4096)  # queries x passages whose scores are held at once (4 MB)


class LogPartition:
    """log sum exp(score / temperature) of each query over the passages added until now, in one pass over them.

    Scores are float32 inner products, taken relative to the largest of their tile; sums over tiles are float64.

    Args:
        queries_QD: float32.
        temperature: greater than 0.
        value_Q: what to go on from; None: no passages.

    Attributes:
        value_Q: float64 [Q]; -inf over no passages.
    """

    def __init__(self, queries_QD: np.ndarray, temperature: float = 1.0, value_Q: np.ndarray | None = None):
        import numpy as np

        if not temperature > 0:
            raise ValueError(f"a temperature is greater than 0, not {temperature}")
        self._queries, self._temperature = queries_QD, temperature
        self.value_Q = np.full(len(queries_QD), -np.inf) if value_Q is None else np.array(value_Q, np.float64)

    def add(self, vectors: np.ndarray) -> None:
        """Add passages, float32 [rows, D], all finite.

        Raises:
            DataError: a score beyond float32.
        """
        for row in range(0, len(vectors), TILE[1]):
            tile = vectors[row : row + TILE[1]].T
            for start in range(0, len(self._queries), TILE[0]):
                self.absorb(start, self._queries[start : start + TILE[0]] @ tile)

    def absorb(self, first: int, scores: np.ndarray) -> None:
        """Add passages by their scores [q, rows] with the queries from ``first`` on; the array is used up.

        Raises:
            DataError: a score beyond float32.
        """
        import numpy as np

        peak_Q1 = scores.max(axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            scaled_Q = np.divide(peak_Q1[:, 0], self._temperature, dtype=np.float32)
        if not np.isfinite(scaled_Q).all():
            raise DataError("A score is too large for float32: the encoder diverged or the temperature is tiny.")
        np.subtract(scores, peak_Q1, out=scores)
        if self._temperature != 1.0:
            np.divide(scores, self._temperature, out=scores)
        total_Q = np.exp(scores, out=scores).sum(axis=1)
        here = slice(first, first + len(scores))
        self.value_Q[here] = np.logaddexp(self.value_Q[here], scaled_Q + np.log(total_Q, dtype=np.float64))

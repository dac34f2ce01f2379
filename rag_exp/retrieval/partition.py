"""The log-partition of a prior over a whole corpus: log Z = log sum over passages of exp(score / temperature).

Top-k search renormalises over what it found. With log Z, log p(z|x) = score / temperature - log Z holds over the whole
corpus, so that a marginal over k passages is a lower bound of the full one, comparable across k.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_exp.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np

_TILE = (256, 4096)  # queries x passages whose scores are held at once (4 MB)


class LogPartition:
    """log sum exp(score / temperature) of each query over the passages added until now, in one pass over them.

    Scores are float32 inner products, taken relative to the largest so far; sums over tiles are float64.

    Attributes:
        value_Q: float64 [Q]; -inf before any passage.
    """

    def __init__(self, queries_QD: np.ndarray, temperature: float = 1.0):
        import numpy as np

        if not temperature > 0:
            raise ValueError(f"a temperature is greater than 0, not {temperature}")
        with np.errstate(over="ignore"):  # what overflows is refused when it is met
            self._queries = queries_QD / np.float32(temperature)
        self.value_Q = np.full(len(queries_QD), -np.inf)

    def add(self, vectors: np.ndarray) -> None:
        """Add passages, float32 [rows, D], all finite.

        Raises:
            DataError: a score beyond float32.
        """
        import numpy as np

        for q in range(0, len(self._queries), _TILE[0]):
            queries = self._queries[q : q + _TILE[0]]
            for row in range(0, len(vectors), _TILE[1]):
                with np.errstate(invalid="ignore", over="ignore"):
                    scores = queries @ vectors[row : row + _TILE[1]].T
                peak_Q1 = scores.max(axis=1, keepdims=True)
                if not np.isfinite(peak_Q1).all():
                    raise DataError(
                        "A score is too large for float32: the encoder diverged or the temperature is tiny."
                    )
                np.exp(np.subtract(scores, peak_Q1, out=scores), out=scores)
                here = slice(q, q + len(queries))
                tile_Q = peak_Q1[:, 0] + np.log(scores.sum(axis=1), dtype=np.float64)
                self.value_Q[here] = np.logaddexp(self.value_Q[here], tile_Q)

"""Indexes that go by L2 distance, their scores turned into inner products: |q - x|^2 = |q|^2 + |x|^2 - 2 <q, x>.

Of vectors of one length the nearest are those of the largest inner product. Of others they are not: such an index finds
other passages, in the order of their inner products.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rag_exp.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np

_FILE = "square_lengths.npy"
_ROWS = 65_536


class Lengths:
    """|x|^2 of the passages of an index, in their order.

    Attributes:
        squares_N: float32.
    """

    def __init__(self, squares_N: np.ndarray | None = None):
        import numpy as np

        self.squares_N = np.empty(0, np.float32) if squares_N is None else squares_N

    def add(self, blocks: Sequence[np.ndarray]) -> None:
        """Those of more passages, vectors [rows, D]."""
        import numpy as np

        parts = [self.squares_N]
        for block in blocks:
            for start in range(0, len(block), _ROWS):
                vectors = np.asarray(block[start : start + _ROWS], np.float32)
                parts.append(np.einsum("nd,nd->n", vectors, vectors))
        self.squares_N = np.concatenate(parts)

    def save(self, folder: Path) -> None:
        import numpy as np

        np.save(folder / _FILE, self.squares_N, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Lengths:
        """What :meth:`save` wrote.

        Raises:
            DataError: nothing readable there.
        """
        import numpy as np

        try:
            return cls(np.load(folder / _FILE, allow_pickle=False))
        except (OSError, ValueError) as e:
            raise DataError(f"{folder}: no readable lengths of an L2 index there ({e}).") from e


def inner_products(
    queries_QD: np.ndarray, ids_QK: np.ndarray, distances_QK: np.ndarray, squares_N: np.ndarray
) -> np.ndarray:
    """<q, x> of squared L2 distances, float32 [Q, K]; whatever where an id is negative."""
    import numpy as np

    squares_Q1 = np.einsum("qd,qd->q", queries_QD, queries_QD)[:, None]
    return np.where(ids_QK < 0, 0.0, (squares_Q1 + squares_N[ids_QK] - distances_QK) / 2)

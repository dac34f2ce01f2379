"""The best passages of a block by inner product, on a torch device: what faiss does on the processor."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_SCORES = 1 << 26  # held on the device at once (256 MB)


class DeviceScores:
    """Scores of queries, which stay on ``device``, with blocks that are brought there.

    Args:
        queries_QD: float32.
        device: as torch names it, "cuda" say.
    """

    def __init__(self, queries_QD: np.ndarray, device: str):
        import torch

        self._queries, self._device = torch.tensor(queries_QD, device=device), device

    def best(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores, float32 [Q, k], and rows, int64 [Q, k], of the ``k`` best of ``vectors`` [rows, D], best first; of
        those tied at rank k any."""
        import torch

        block = torch.tensor(vectors, device=self._device)
        step = max(1, _SCORES // len(vectors))
        parts = [torch.topk(part @ block.T, k) for part in self._queries.split(step)]
        scores, rows = (torch.cat(found).cpu().numpy() for found in zip(*parts, strict=True))
        return scores, rows

    def all(self, queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Scores, float32 [q, rows], of the queries at positions ``queries`` with ``vectors``."""
        import torch

        asked = self._queries[torch.tensor(queries, device=self._device)]
        return (asked @ torch.tensor(vectors, device=self._device).T).cpu().numpy()

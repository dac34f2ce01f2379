"""Which paths of two passages are read, and with what prior.

A chain (:mod:`rag_exp.models.chain`) sums over the paths (d1, d2) that two hops of search found for a question.
Each reader row holds the two passages of one path, and the path's log-prior stands where a passage's log-prior
stands. Only the M paths of the largest prior are read. Their prior is not renormalised unless asked for, so that the
NLL bounds that of all paths from above, and falls as M grows.

Shapes: B questions, K passages of hop 1, J after each of them, M paths read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rag_exp.models.chain import ChainPrior, path_logprior
from rag_exp.models.mixture import NEG_INF, masked_log_softmax
from rag_exp.retrieval.paths import Paths
from rag_exp.retrieval.results import NOTHING


def best_paths(
    hop1_score_BK: Tensor,
    hop2_score_BKJ: Tensor,
    count: int,
    prior: ChainPrior = "local",
    temperature: float | Tensor = 1.0,
    renormalize: bool = False,
) -> tuple[Tensor, Tensor]:
    """The ``count`` paths of the largest prior, best first; equal ones in the order of hop 1, then of hop 2.

    Args:
        hop1_score_BK, hop2_score_BKJ: scores of both hops, -inf where nothing was found.
        count: M is this many, or all K * J.
        prior: see :mod:`rag_exp.models.chain`.
        temperature: scores of both hops are divided by it.
        renormalize: whether the prior of the paths that are kept is made to sum to one.

    Returns:
        the places of both passages among K and J, int64 [B, M, 2], and log-priors [B, M], differentiable,
        -inf where there are fewer paths.

    Raises:
        DataError: a question without a path.
    """
    logprior_BP = path_logprior(hop1_score_BK / temperature, hop2_score_BKJ / temperature, prior).flatten(1)
    order_BM = torch.argsort(logprior_BP.detach(), dim=1, descending=True, stable=True)[:, :count]
    J = hop2_score_BKJ.shape[2]
    places_BM2 = torch.stack([torch.div(order_BM, J, rounding_mode="floor"), order_BM % J], dim=-1)
    logprior_BM = logprior_BP.gather(1, order_BM)
    if renormalize:
        logprior_BM = masked_log_softmax(logprior_BM, logprior_BM != NEG_INF)
    return places_BM2, logprior_BM


@dataclass(frozen=True, eq=False)
class ListedPaths:
    """The paths that a reader reads with each of Q questions, best prior first.

    Attributes:
        rows_QM2: int64 corpus rows of both passages; -1 where there is no path.
        logprior_QM: float64 log p(d1,d2|q); -inf where there is no path. Sums to ``kept_Q``, unless renormalised.
        kept_Q: the prior mass of the listed paths before any renormalising; NaN for a question without paths.
        hop1_QK: int64 rows that the first hop found, -1 where there are fewer.
    """

    rows_QM2: np.ndarray
    logprior_QM: np.ndarray
    kept_Q: np.ndarray
    hop1_QK: np.ndarray

    @classmethod
    def of(
        cls, paths: Paths, count: int, prior: ChainPrior = "local", temperature: float = 1.0, renormalize: bool = False
    ) -> ListedPaths:
        """The best ``count`` of ``paths``."""
        scores = (torch.from_numpy(s.astype(np.float64)) for s in (paths.hop1.scores_QK, paths.scores_QKJ))
        hop1_QK, hop2_QKJ = scores
        some_Q = (paths.ids_QKJ >= 0).any((1, 2))
        M = min(count, paths.ids_QKJ[0].size if len(paths) else 1)
        rows_QM2 = np.full((len(paths), M, 2), NOTHING, np.int64)
        logprior_QM, kept_Q = np.full((len(paths), M), NEG_INF), np.full(len(paths), np.nan)
        if some_Q.any():
            places, found = best_paths(hop1_QK[some_Q], hop2_QKJ[some_Q], count, prior, temperature)
            rows = rows_of(places.numpy(), paths.hop1.ids_QK[some_Q], paths.ids_QKJ[some_Q])
            rows[found.numpy() == NEG_INF] = NOTHING
            rows_QM2[some_Q], kept_Q[some_Q] = rows, found.exp().sum(1).numpy()
            if renormalize:
                found = masked_log_softmax(found, found != NEG_INF)
            logprior_QM[some_Q] = found.numpy()
        return cls(rows_QM2, logprior_QM, kept_Q, paths.hop1.ids_QK)

    def __len__(self) -> int:
        return len(self.rows_QM2)

    def of_queries(self, rows: np.ndarray) -> ListedPaths:
        """The paths of some of the questions."""
        return ListedPaths(self.rows_QM2[rows], self.logprior_QM[rows], self.kept_Q[rows], self.hop1_QK[rows])

    @property
    def mask_QM(self) -> np.ndarray:
        """True where there is a path."""
        return self.logprior_QM != NEG_INF


def rows_of(places_BM2: np.ndarray, ids_BK: np.ndarray, ids_BKJ: np.ndarray) -> np.ndarray:
    """Corpus rows [B, M, 2] of paths given by their places among K and J."""
    b = np.arange(len(places_BM2))[:, None]
    first, second = places_BM2[..., 0], places_BM2[..., 1]
    return np.stack([ids_BK[b, first], ids_BKJ[b, first, second]], axis=-1)

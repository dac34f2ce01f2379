"""One number after training: how sharp the softmax over passages should be (temperature scaling, Guo et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_RANGE = (0.02, 50.0)
_OTHERS = 20  # passages that share the doubt: those the softmax would confuse with the gold one


def gold_nll(scores_QP: Tensor, gold_QP: Tensor, factor: float = 1.0) -> float:
    """-log of the softmax mass on gold passages, in nats, mean over questions, with scores multiplied by ``factor``."""
    logp_QP = (scores_QP * factor).log_softmax(1)
    return float(-logp_QP.masked_fill(~gold_QP, -math.inf).logsumexp(1).mean())


def best_factor(scores_QP: Tensor, gold_QP: Tensor) -> float:
    """What scores must be multiplied by for their softmax to predict the gold passages best.

    A ranking without a mistake in Q questions would ask for infinity. So, by the rule of succession, a share
    1 / (Q + 2) of doubt is spread over the 20 best-scored other passages of each question.

    Args:
        scores_QP: of each question with each passage.
        gold_QP: bool, at least one True a row.

    Returns:
        A factor within [0.02, 50].
    """
    doubt = 1.0 / (len(scores_QP) + 2)
    rivals_QR = scores_QP.masked_fill(gold_QP, -math.inf).topk(min(_OTHERS, scores_QP.shape[1] - 1), dim=1).values
    known_QR = rivals_QR.isfinite()
    golds = int(gold_QP.sum(1).max())
    gold_scores_QG = scores_QP.masked_fill(~gold_QP, -math.inf).topk(golds, dim=1).values
    doubtful_Q = known_QR.any(1)

    def loss(log_factor: float) -> float:
        factor = math.exp(log_factor)
        log_z_Q = (scores_QP * factor).logsumexp(1)
        right_Q = (gold_scores_QG * factor).logsumexp(1) - log_z_Q
        rival_Q = (rivals_QR * factor).masked_fill(~known_QR, 0.0).sum(1) / known_QR.sum(1).clamp_min(1) - log_z_Q
        return float(-((1 - doubt) * right_Q + doubt * rival_Q.masked_fill(~doubtful_Q, 0.0)).mean())

    return math.exp(_least(loss, math.log(_RANGE[0]), math.log(_RANGE[1])))


def gold_recall(scores_QP: Tensor, gold_QP: Tensor, ranks: tuple[int, ...]) -> dict[str, float]:
    """Share of questions with a gold passage among the best k, for each k; ties count in the gold passage's favour."""
    best_Q1 = scores_QP.masked_fill(~gold_QP, -math.inf).max(1, keepdim=True).values
    above_Q: np.ndarray = (scores_QP > best_Q1).sum(1).numpy()
    return {str(k): float((above_Q < k).mean()) for k in ranks}


def _least(f: Callable[[float], float], low: float, high: float, steps: int = 18) -> float:
    """Where the unimodal ``f`` is least in [low, high], by golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = f(a), f(b)
    for _ in range(steps):
        if fa <= fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = f(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = f(b)
    return (low + high) / 2

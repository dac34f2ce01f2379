"""The distribution of the next token, over a large vocabulary: what is likeliest, and what given tokens have.

The logits of all hypotheses never stand side by side: rows are projected chunk by chunk
(``Generator.log_probabilities``), and of each chunk only what is asked for is kept.

Shapes: N rows, K rows that write one answer, R = N/K answers, M tokens, X of a row's tokens that are asked for,
S width of a state (``Generator.states``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rag_exp.models.reader import Generator


def likeliest(generator: Generator, states_NS: Tensor, most: int, weight_RK: Tensor | None) -> tuple[Tensor, Tensor]:
    """Log-probabilities and ids [R, M] of the ``most`` likeliest next tokens (all, if there are fewer), best first.

    Args:
        weight_RK: weights of the K rows whose mixture each answer goes by: sum_k w_k p_k(y); None where each row
            goes by itself.
    """
    K = 1 if weight_RK is None else weight_RK.shape[1]
    parts = []
    for rows, logp_CV in generator.log_probabilities(states_NS, together=K):
        if weight_RK is not None:
            weight_C1K = weight_RK[rows.start // K : rows.stop // K, None]
            logp_CV = torch.bmm(weight_C1K, logp_CV.exp_().unflatten(0, (-1, K)))[:, 0].log_()
        parts.append(logp_CV.topk(min(most, logp_CV.shape[1])))
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def logp_of(generator: Generator, states_NS: Tensor, row_M: Tensor, token_M: Tensor) -> Tensor:
    """log p(token_m) after the state ``row_m``, [M]; a row may be asked for several tokens."""
    order = row_M.argsort()
    row_M, token_M = row_M[order], token_M[order]
    ends = row_M.bincount(minlength=len(states_NS)).cumsum(0).tolist()
    logp_M = states_NS.new_empty(len(row_M), dtype=torch.float32)
    for rows, logp_CV in generator.log_probabilities(states_NS):
        asked = slice(ends[rows.start - 1] if rows.start else 0, ends[rows.stop - 1])
        logp_M[order[asked]] = logp_CV[row_M[asked] - rows.start, token_M[asked]].float()
    return logp_M

"""The marginals over retrieved passages, as pure functions of log-probabilities.

Every generator, objective and evaluation uses these. With p(z|x) the prior over the K retrieved
passages of a question and p(y_t|x,z,y_<t) the reader's probability of target token t (Lewis et al.
2020, "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks", section 2.1):

    RAG-Sequence   log p(y|x) = logsumexp_z [ log p(z|x) + sum_t log p(y_t|x,z,y_<t) ]
    RAG-Token      log p(y|x) = sum_t logsumexp_z [ log p(z|x) + log p(y_t|x,z,y_<t) ]

Shapes: B questions, K passages a question, T target tokens. All values are natural logarithms.

A passage whose prior is -inf is *masked*: it contributes nothing, and its log-probabilities and its
prior get exactly zero gradient, even where they are -inf or NaN. The same holds for token
positions outside ``target_mask_BT``. Half-precision input is summed, and returned, in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rag_exp.core.errors import DataError

NEG_INF = float("-inf")


def doc_logprior(scores_BK: Tensor, mask_BK: Tensor | None = None, temperature: float | Tensor = 1.0) -> Tensor:
    """log p(z|x): the log-softmax of retrieval scores over each question's retrieved set.

    Args:
        scores_BK: retrieval scores, higher is better; what stands under a masked position is not read.
        mask_BK: True where a passage was retrieved; None means everywhere.
        temperature: scores are divided by it; a positive number, or a tensor that may train.

    Returns:
        log p(z|x) of shape [B, K], -inf at masked positions. It differentiates to exactly zero there.

    Raises:
        DataError: a row has no passage at all, so that there is nothing to normalise over.
    """
    scores_BK = _full(scores_BK)
    if mask_BK is None:
        return torch.log_softmax(scores_BK / temperature, dim=-1)
    mask_BK = mask_BK.bool()
    _every_row(mask_BK, "passage")
    scaled_BK = torch.where(mask_BK, scores_BK, 0.0) / temperature
    # The lowest finite number and not -inf: exp() is zero for both, and the gradient of -inf - (-inf) is NaN.
    filled_BK = torch.where(mask_BK, scaled_BK, torch.finfo(scaled_BK.dtype).min)
    return torch.where(mask_BK, torch.log_softmax(filled_BK, dim=-1), NEG_INF)


def sequence_logp(token_logp_BKT: Tensor, target_mask_BT: Tensor) -> Tensor:
    """log p(y|x,z) = sum_t log p(y_t|x,z,y_<t) over the target's tokens, of shape [B, K].

    Args:
        token_logp_BKT: log-probability of each target token given each passage; not read outside the mask.
        target_mask_BT: True at the target's tokens, end token included.

    Raises:
        DataError: a row without a target token.
    """
    target_mask_BT = target_mask_BT.bool()
    _every_row(target_mask_BT, "target token")
    return torch.where(target_mask_BT[:, None, :], _full(token_logp_BKT), 0.0).sum(-1)


def rag_sequence_nll(token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
    """-log p(y|x) by the RAG-Sequence marginal: one passage explains the whole answer.

    Args:
        token_logp_BKT: log p(y_t|x,z,y_<t).
        doc_logprior_BK: log p(z|x), -inf for a masked passage (see :func:`doc_logprior`).
        target_mask_BT: True at the target's tokens.

    Returns:
        nats per answer, shape [B].

    Raises:
        DataError: a row without a target token or without an unmasked passage.
    """
    return -torch.logsumexp(_joint(token_logp_BKT, doc_logprior_BK, target_mask_BT), dim=-1)


def rag_token_nll(token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
    """-log p(y|x) by the RAG-Token marginal: each token may come from another passage.

    Arguments, result and errors as for :func:`rag_sequence_nll`.
    """
    target_mask_BT = target_mask_BT.bool()
    _every_row(target_mask_BT, "target token")
    live_BK = _live(doc_logprior_BK)
    read_BKT = live_BK[:, :, None] & target_mask_BT[:, None, :]
    prior_BK1 = torch.where(live_BK, _full(doc_logprior_BK), NEG_INF)[:, :, None]
    mixed_BT = torch.logsumexp(prior_BK1 + torch.where(read_BKT, _full(token_logp_BKT), 0.0), dim=1)
    return -torch.where(target_mask_BT, mixed_BT, 0.0).sum(-1)


def sequence_posterior(token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
    """log p(z|x,y) under the RAG-Sequence marginal: which passage explains the answer.

    The gradient of the RAG-Sequence NLL with respect to a retrieval score is prior - posterior.

    Arguments and errors as for :func:`rag_sequence_nll`. Returns shape [B, K], -inf for a masked passage.
    """
    joint_BK = _joint(token_logp_BKT, doc_logprior_BK, target_mask_BT)
    return joint_BK - torch.logsumexp(joint_BK, dim=-1, keepdim=True)


def _joint(token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
    """log p(z|x) + log p(y|x,z), -inf for masked passages, of shape [B, K]."""
    live_BK = _live(doc_logprior_BK)
    read_BKT = torch.where(live_BK[:, :, None], _full(token_logp_BKT), 0.0)
    return torch.where(live_BK, _full(doc_logprior_BK), NEG_INF) + sequence_logp(read_BKT, target_mask_BT)


def _live(doc_logprior_BK: Tensor) -> Tensor:
    live_BK = doc_logprior_BK != NEG_INF
    _every_row(live_BK, "passage")
    return live_BK


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _every_row(mask: Tensor, what: str) -> None:
    empty = ~mask.any(-1)
    if bool(empty.any()):
        rows = empty.nonzero()[:, 0].tolist()
        raise DataError(f"row {rows[0]} of {len(mask)} has no {what} (rows like it: {len(rows)}); leave such rows out.")

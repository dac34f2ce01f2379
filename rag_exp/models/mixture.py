"""The marginals over one list of passages: mixtures whose weights are a prior.

With p(z|x) the prior over the K passages of a question and p(y_t|x,z,y_<t) the reader's probability of
target token t (Lewis et al. 2020, "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks",
section 2.1):

    RAG-Sequence   log p(y|x) = logsumexp_z [ log p(z|x) + sum_t log p(y_t|x,z,y_<t) ]
    RAG-Token      log p(y|x) = sum_t logsumexp_z [ log p(z|x) + log p(y_t|x,z,y_<t) ]

A prior need not sum to one: pruning leaves probability out, and the marginal is then a lower bound of p(y|x).
What is mixed need not be single passages either: a chain mixes paths (:mod:`rag_exp.models.chain`).

Shapes: B questions, K passages a question, T target tokens. All values are natural logarithms.

A passage whose prior is -inf is *masked*: it contributes nothing, and its log-probabilities and its
prior get exactly zero gradient, even where they are -inf or NaN. The same holds for token
positions outside ``target_mask_BT``. Half-precision input is summed, and returned, in float32.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rag_exp.core.errors import DataError

NEG_INF = float("-inf")

Marginal = Literal["sequence", "token"]


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
    scores_BK = in_full(scores_BK)
    if mask_BK is None:
        return torch.log_softmax(scores_BK / temperature, dim=-1)
    require_some(mask_BK.bool(), "passage")
    return masked_log_softmax(scores_BK, mask_BK.bool(), temperature)


def masked_log_softmax(scores: Tensor, mask: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """log-softmax of ``scores / temperature`` over the last dimension's True positions, -inf at the others.

    What stands at the others is not read, and its gradient is exactly zero; so is all of a row without any.
    """
    scaled = torch.where(mask, scores, 0.0) / temperature
    # The lowest finite number and not -inf: exp() is zero for both, and the gradient of -inf - (-inf) is NaN.
    filled = torch.where(mask, scaled, torch.finfo(scaled.dtype).min)
    return torch.where(mask, torch.log_softmax(filled, dim=-1), NEG_INF)


def sequence_logp(token_logp_BKT: Tensor, target_mask_BT: Tensor) -> Tensor:
    """log p(y|x,z) = sum_t log p(y_t|x,z,y_<t) over the target's tokens, of shape [B, K].

    Args:
        token_logp_BKT: log-probability of each target token given each passage; not read outside the mask.
        target_mask_BT: True at the target's tokens, end token included.

    Raises:
        DataError: a row without a target token.
    """
    target_mask_BT = target_mask_BT.bool()
    require_some(target_mask_BT, "target token")
    return torch.where(target_mask_BT[:, None, :], in_full(token_logp_BKT), 0.0).sum(-1)


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
    mixed_BT = torch.logsumexp(_token_joint(token_logp_BKT, doc_logprior_BK, target_mask_BT), dim=1)
    return -torch.where(target_mask_BT, mixed_BT, 0.0).sum(-1)


def mixture_nll(
    token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor, marginal: Marginal = "sequence"
) -> Tensor:
    """-log p(y|x) by the marginal of that name; see :func:`rag_sequence_nll` and :func:`rag_token_nll`."""
    nll = rag_sequence_nll if is_sequence(marginal) else rag_token_nll
    return nll(token_logp_BKT, doc_logprior_BK, target_mask_BT)


def posterior(
    token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor, marginal: Marginal = "sequence"
) -> Tensor:
    """p(z|x,y): which passage explains the answer, or each of its tokens.

    The gradient of the NLL with respect to a retrieval score is the prior minus it (for RAG-Token, summed over
    the tokens).

    Arguments and errors as for :func:`rag_sequence_nll`.

    Returns:
        sequence: p(z|x,y), shape [B, K], rows summing to one.
        token: p(z_t|x,y_<=t), shape [B, K, T], each token's summing to one over K, and 0 where there is no token.
        Masked passages get 0.
    """
    return log_posterior(token_logp_BKT, doc_logprior_BK, target_mask_BT, marginal).exp()


def log_posterior(
    token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor, marginal: Marginal = "sequence"
) -> Tensor:
    """The logarithm of :func:`posterior`, -inf where that is 0."""
    if is_sequence(marginal):
        joint_BK = _joint(token_logp_BKT, doc_logprior_BK, target_mask_BT)
        return joint_BK - joint_BK.logsumexp(-1, keepdim=True)
    joint_BKT = _token_joint(token_logp_BKT, doc_logprior_BK, target_mask_BT)
    log_posterior_BKT = joint_BKT - joint_BKT.logsumexp(1, keepdim=True)
    return torch.where(target_mask_BT.bool()[:, None, :], log_posterior_BKT, NEG_INF)


def sequence_posterior(token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
    """:func:`log_posterior` under the RAG-Sequence marginal."""
    return log_posterior(token_logp_BKT, doc_logprior_BK, target_mask_BT)


def _joint(token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
    """log p(z|x) + log p(y|x,z), -inf for masked passages, of shape [B, K]."""
    live_BK = _live(doc_logprior_BK)
    read_BKT = torch.where(live_BK[:, :, None], in_full(token_logp_BKT), 0.0)
    return torch.where(live_BK, in_full(doc_logprior_BK), NEG_INF) + sequence_logp(read_BKT, target_mask_BT)


def _token_joint(token_logp_BKT: Tensor, doc_logprior_BK: Tensor, target_mask_BT: Tensor) -> Tensor:
    """log p(z|x) + log p(y_t|x,z,y_<t), -inf for masked passages, the prior where no target stands; [B, K, T]."""
    target_mask_BT = target_mask_BT.bool()
    require_some(target_mask_BT, "target token")
    live_BK = _live(doc_logprior_BK)
    read_BKT = live_BK[:, :, None] & target_mask_BT[:, None, :]
    prior_BK1 = torch.where(live_BK, in_full(doc_logprior_BK), NEG_INF)[:, :, None]
    return prior_BK1 + torch.where(read_BKT, in_full(token_logp_BKT), 0.0)


def _live(doc_logprior_BK: Tensor) -> Tensor:
    live_BK = doc_logprior_BK != NEG_INF
    require_some(live_BK, "passage")
    return live_BK


def is_sequence(marginal: Marginal) -> bool:
    """Whether it is RAG-Sequence and not RAG-Token; any other name is a ``ValueError``."""
    if marginal not in ("sequence", "token"):
        raise ValueError(f"marginal={marginal!r}: it is 'sequence' or 'token'.")
    return marginal == "sequence"


def in_full(x: Tensor) -> Tensor:
    """Half precision as float32, in which sums of log-probabilities are taken; other types as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def require_some(mask: Tensor, what: str) -> None:
    """Raise ``DataError`` where a row of ``mask`` is True nowhere: it has no ``what``."""
    empty = ~mask.any(-1)
    if bool(empty.any()):
        rows = empty.nonzero()[:, 0].tolist()
        raise DataError(f"row {rows[0]} of {len(mask)} has no {what} (rows like it: {len(rows)}); leave such rows out.")

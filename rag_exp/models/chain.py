"""The two-hop marginal: over paths (d1, d2), the second passage found with the help of the first.

    log p(y|q) = logsumexp_{d1,d2} [ log p(d1,d2|q) + log p(y|q,d1,d2) ]

A *local* prior is a softmax at each hop, log p(d1|q) + log p(d2|q,d1); a *global* one is a single softmax of
s1 + s2 over all paths. Either marginal of :mod:`rag_exp.models.mixture` is then taken over paths instead of passages.

A reader can afford M of the K*J paths. Their prior stays the one over all: what is pruned takes its mass
with it, so that the NLL of a pruned chain is an upper bound that falls as M grows.

What masks say: a path that is masked and has a finite score is *pruned* (it counts where the prior is
normalised, and its score has that part of the gradient); one whose score is -inf, or masked and not finite, is
*absent* (it counts nowhere and all its gradients are exactly zero). A first passage is absent likewise: where
its score is -inf, or not finite with all its paths masked. Token log-probabilities of both get exactly zero gradient.

Shapes: B questions, K first passages, J second passages of each, M listed paths, T target tokens. Path (k, j)
has the number k*J + j.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rag_exp.core.errors import DataError
from rag_exp.models.mixture import (
    NEG_INF,
    Marginal,
    in_full,
    masked_log_softmax,
    mixture_nll,
    posterior,
    require_some,
)

ChainPrior = Literal["local", "global"]


def chain_nll(
    token_logp_BKJT: Tensor,
    hop1_score_BK: Tensor,
    hop2_score_BKJ: Tensor,
    target_mask_BT: Tensor,
    prior: ChainPrior = "local",
    marginal: Marginal = "sequence",
    path_mask_BKJ: Tensor | None = None,
    renormalize: bool = False,
) -> Tensor:
    """-log p(y|q) over all paths, or those that ``path_mask_BKJ`` leaves.

    Args:
        token_logp_BKJT: log p(y_t|q,d1,d2,y_<t).
        hop1_score_BK: retrieval scores s1 of the first passages.
        hop2_score_BKJ: retrieval scores s2 of the second passages, given the first.
        target_mask_BT: True at the target's tokens, end token included.
        prior: "local" or "global".
        marginal: "sequence" (one path explains the answer) or "token" (each token may come from another path).
        path_mask_BKJ: True at paths to sum over; None means all.
        renormalize: whether the prior is scaled to sum to one over the paths that are left.

    Returns:
        nats per answer, shape [B].

    Raises:
        DataError: a row without a target token or without a path.
    """
    path_BM = _numbers(hop2_score_BKJ, path_mask_BKJ)
    token_logp_BMT = token_logp_BKJT.flatten(1, 2)
    return listed_chain_nll(
        token_logp_BMT, hop1_score_BK, hop2_score_BKJ, path_BM, target_mask_BT, prior, marginal, renormalize
    )


def listed_chain_nll(
    token_logp_BMT: Tensor,
    hop1_score_BK: Tensor,
    hop2_score_BKJ: Tensor,
    path_BM: Tensor,
    target_mask_BT: Tensor,
    prior: ChainPrior = "local",
    marginal: Marginal = "sequence",
    renormalize: bool = False,
) -> Tensor:
    """-log p(y|q) over M listed paths: nothing of size K x J x T is built.

    Args:
        token_logp_BMT: log p(y_t|q,d1,d2,y_<t) of each listed path.
        path_BM: its number k*J + j; -1 where a row lists fewer than M. What stands there is not read.

    Other arguments, result and errors as for :func:`chain_nll`; a path that is listed twice is an error too.
    """
    logprior_BM = listed_logprior(hop1_score_BK, hop2_score_BKJ, path_BM, prior, renormalize)
    return mixture_nll(token_logp_BMT, logprior_BM, target_mask_BT, marginal)


def chain_posterior(
    token_logp_BKJT: Tensor,
    hop1_score_BK: Tensor,
    hop2_score_BKJ: Tensor,
    target_mask_BT: Tensor,
    prior: ChainPrior = "local",
    marginal: Marginal = "sequence",
    path_mask_BKJ: Tensor | None = None,
) -> Tensor:
    """p(d1,d2|q,y): which path explains the answer, or each of its tokens, among those that the mask leaves.

    Of listed paths it is ``posterior(token_logp_BMT, listed_logprior(...), target_mask_BT)``.

    Arguments and errors as for :func:`chain_nll`.

    Returns:
        sequence: shape [B, K, J]; its sum over J is p(d1|q,y), the first hop's posterior.
        token: shape [B, K, J, T], 0 where there is no token.
        Masked paths get 0.
    """
    logprior_BM = path_logprior(hop1_score_BK, hop2_score_BKJ, prior, path_mask_BKJ).flatten(1, 2)
    found = posterior(token_logp_BKJT.flatten(1, 2), logprior_BM, target_mask_BT, marginal)
    return found.unflatten(1, hop2_score_BKJ.shape[1:])


def listed_logprior(
    hop1_score_BK: Tensor,
    hop2_score_BKJ: Tensor,
    path_BM: Tensor,
    prior: ChainPrior = "local",
    renormalize: bool = False,
) -> Tensor:
    """log p(d1,d2|q) of M listed paths, shape [B, M], -inf where ``path_BM`` is -1. See :func:`path_logprior`.

    Raises:
        DataError: a row that lists no path, or one path twice.
    """
    listed_BM = path_BM >= 0
    place_BM = path_BM.clamp(min=0)
    times_BN = torch.zeros_like(hop2_score_BKJ, dtype=torch.int64).flatten(1)
    times_BN.scatter_add_(1, place_BM, listed_BM.long())
    if bool((times_BN > 1).any()):
        row, path = (times_BN > 1).nonzero()[0].tolist()
        raise DataError(f"row {row} of {len(path_BM)} lists path {path} more than once; it would count twice.")
    mask_BKJ = (times_BN > 0).view_as(hop2_score_BKJ)
    logprior_BKJ = path_logprior(hop1_score_BK, hop2_score_BKJ, prior, mask_BKJ, renormalize)
    return torch.where(listed_BM, logprior_BKJ.flatten(1).gather(1, place_BM), NEG_INF)


def path_logprior(
    hop1_score_BK: Tensor,
    hop2_score_BKJ: Tensor,
    prior: ChainPrior = "local",
    path_mask_BKJ: Tensor | None = None,
    renormalize: bool = False,
) -> Tensor:
    """log p(d1,d2|q), shape [B, K, J], -inf for masked and absent paths.

    A mask alone changes no other path's prior; with ``renormalize`` the rest sums to one. The local prior's mass of
    a first passage that has no second one is on no path.

    Raises:
        DataError: a row without a path.
    """
    if prior not in ("local", "global"):
        raise ValueError(f"prior={prior!r}: it is 'local' or 'global'.")
    s1_BK, s2_BKJ = in_full(hop1_score_BK), in_full(hop2_score_BKJ)
    mask_BKJ = torch.ones_like(s2_BKJ, dtype=torch.bool) if path_mask_BKJ is None else path_mask_BKJ.bool()
    first_BK = (s1_BK != NEG_INF) & (s1_BK.isfinite() | mask_BKJ.any(-1))
    path_BKJ = (s2_BKJ != NEG_INF) & (s2_BKJ.isfinite() | mask_BKJ) & first_BK[:, :, None]
    live_BKJ = path_BKJ & mask_BKJ
    require_some(live_BKJ.flatten(1), "path")
    if prior == "local":
        logprior_BKJ = masked_log_softmax(s1_BK, first_BK)[:, :, None] + masked_log_softmax(s2_BKJ, path_BKJ)
    else:
        score_BKJ = torch.where(path_BKJ, s1_BK[:, :, None], 0.0) + torch.where(path_BKJ, s2_BKJ, 0.0)
        logprior_BKJ = masked_log_softmax(score_BKJ.flatten(1), path_BKJ.flatten(1)).view_as(s2_BKJ)
    logprior_BKJ = torch.where(live_BKJ, logprior_BKJ, NEG_INF)
    if renormalize:
        logprior_BKJ = logprior_BKJ - logprior_BKJ.flatten(1).logsumexp(-1)[:, None, None]
    return logprior_BKJ


def _numbers(hop2_score_BKJ: Tensor, path_mask_BKJ: Tensor | None) -> Tensor:
    """The numbers of all paths, -1 where masked, shape [B, K*J]."""
    B, K, J = hop2_score_BKJ.shape
    number_BM = torch.arange(K * J, device=hop2_score_BKJ.device).expand(B, -1)
    return number_BM if path_mask_BKJ is None else torch.where(path_mask_BKJ.bool().flatten(1), number_BM, -1)

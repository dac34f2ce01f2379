"""Log-probabilities of given tokens from hidden states, without the logits of every position at once.

    log p(y|h) = h W_y + b_y - logsumexp_v (h W_v + b_v)

Rows are projected chunk by chunk, into the same memory again and again: a fresh tensor for each chunk costs more
than its softmax. Backward needs the softmax again: it recomputes each chunk's (one more projection; the memory is
one chunk's) or, with ``keep``, takes the probabilities that forward left.

Shapes: N reader rows, T target tokens, D width, V vocabulary, M target tokens of all rows, C rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rag_exp.core.errors import DataError

IGNORED = -100  # a target that is not one, by torch's convention


def target_logprobs(
    hidden_NTD: Tensor,
    weight_VD: Tensor,
    targets_NT: Tensor,
    bias_V: Tensor | None = None,
    *,
    chunk: int,
    keep: bool = False,
) -> Tensor:
    """log p(targets) under softmax(hidden W^T + bias), never holding an N x T x V tensor.

    The projection is computed in the inputs' type (under autocast, in autocast's), the softmax in float32 at least.
    The first derivative is exact; a second one is refused with an error.

    Args:
        hidden_NTD: hidden states, each at the position that predicts its target.
        weight_VD: output embedding; may be tied to the input embedding, or frozen.
        targets_NT: token ids; -100 where there is no target.
        bias_V: of the projection.
        chunk: how many of the N*T rows are projected at once.
        keep: whether the probabilities of the rows that have a target stay in memory until backward ([M, V] in
            float32), which saves computing them again.

    Returns:
        natural logarithms, shape [N, T], float32 at least; 0, with no gradient, where the target is -100.

    Raises:
        DataError: a target outside the vocabulary.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: at least one row must be projected at once.")
    wanted_NT = targets_NT != IGNORED
    targets_M = targets_NT[wanted_NT]
    V = len(weight_VD)
    if targets_M.numel() and not bool(((targets_M >= 0) & (targets_M < V)).all()):
        wrong = targets_M[(targets_M < 0) | (targets_M >= V)][0].item()
        raise DataError(f"target {wrong} is not a token: the vocabulary has {V}, and {IGNORED} stands for no target.")
    hidden_MD = hidden_NTD[wanted_NT]
    keep = keep and torch.is_grad_enabled()
    logp_M = _TargetLogp.apply(hidden_MD, weight_VD, bias_V, targets_M, _dtype(hidden_MD), chunk, keep)
    return logp_M.new_zeros(targets_NT.shape).masked_scatter(wanted_NT, logp_M)


@torch.no_grad()
def log_probabilities(
    hidden_MD: Tensor, weight_VD: Tensor, bias_V: Tensor | None = None, *, chunk: int, out_MV: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """log softmax(hidden W^T + bias) of a few rows at a time, without gradient.

    Types as in :func:`target_logprobs`.

    Args:
        out_MV: where they are written, if they are to stay.

    Yields:
        which rows, and their natural logarithms [C, V]: the caller's to write to, until it asks for the next.
    """
    return _normalised(torch.log_softmax, hidden_MD, weight_VD, bias_V, chunk, out_MV)


@torch.no_grad()
def _normalised(
    normalise: Callable[..., Tensor], hidden_MD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, chunk: int,
    out_MV: Tensor | None = None,
) -> Iterator[tuple[slice, Tensor]]:  # fmt: skip
    """Rows of ``normalise(logits)``, a softmax or its logarithm, in the place of the logits if their types agree."""
    dtype, turns = _dtype(hidden_MD), torch.is_autocast_enabled(hidden_MD.device.type)
    size, exact = (min(chunk, len(hidden_MD)), len(weight_VD)), torch.promote_types(dtype, torch.float32)
    out_CV = hidden_MD.new_empty(size if out_MV is None else (0,), dtype=exact)
    half_CV = hidden_MD.new_empty((0,) if turns or dtype == exact else size, dtype=dtype)
    for low in range(0, len(hidden_MD), chunk):
        rows = slice(low, min(low + chunk, len(hidden_MD)))
        hidden_CD, C = hidden_MD[rows], rows.stop - low
        to_CV = out_CV[:C] if out_MV is None else out_MV[rows]
        logits_CV = to_CV if dtype == exact else half_CV[:C]
        if turns:  # autocast keeps the weights that it turned, but cannot write into memory that is given
            logits_CV = nn.functional.linear(hidden_CD, weight_VD, bias_V)
        elif bias_V is None:
            torch.mm(hidden_CD, weight_VD.T, out=logits_CV)
        else:
            torch.addmm(bias_V.to(dtype), hidden_CD, weight_VD.T, out=logits_CV)
        yield rows, normalise(logits_CV, -1, dtype=exact, out=to_CV)


def _dtype(hidden_MD: Tensor) -> torch.dtype:
    """The type that a projection is computed in."""
    device = hidden_MD.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_MD.dtype


class _TargetLogp(torch.autograd.Function):
    """[M, D], [V, D], [V] or None, [M] -> [M]. Gradients are summed over chunks in float32 at least."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_M: Tensor,
        dtype: torch.dtype,
        chunk: int,
        keep: bool,
    ) -> Tensor:
        exact = torch.promote_types(dtype, torch.float32)
        logp_M = torch.empty(len(targets_M), dtype=exact, device=hidden_MD.device)
        kept_MV = logp_M.new_empty(len(targets_M), len(weight_VD)) if keep else None
        with torch.autocast(hidden_MD.device.type, enabled=False):
            parts = log_probabilities(hidden_MD.to(dtype), weight_VD.to(dtype), bias_V, chunk=chunk, out_MV=kept_MV)
            for rows, logp_CV in parts:
                logp_M[rows] = logp_CV.gather(-1, targets_M[rows, None])[:, 0]
                if keep:
                    logp_CV.exp_()
        ctx.save_for_backward(hidden_MD, weight_VD, bias_V, targets_M, kept_MV)
        ctx.dtype, ctx.exact, ctx.chunk = dtype, exact, chunk
        return logp_M

    @staticmethod
    def backward(ctx: Any, grad_M: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # with create_graph
            raise RuntimeError(
                "target_logprobs has no second derivative; leave create_graph out, or project with all logits."
            )
        hidden_MD, weight_VD, bias_V, targets_M, kept_MV = ctx.saved_tensors
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        grad_hidden_MD = torch.empty_like(hidden_MD) if to_hidden else None
        grad_weight_VD = grad_bias_V = None
        with torch.autocast(hidden_MD.device.type, enabled=False):
            cast_MD, cast_VD = hidden_MD.to(ctx.dtype), weight_VD.to(ctx.dtype)
            if kept_MV is None:
                parts = _normalised(torch.softmax, cast_MD, cast_VD, bias_V, ctx.chunk)
            else:
                parts = _copies(kept_MV, ctx.chunk)
            for rows, slope_CV in parts:
                hidden_CD, grad_C1 = cast_MD[rows], grad_M[rows, None]
                slope_CV *= -grad_C1
                slope_CV.scatter_add_(1, targets_M[rows, None], grad_C1)
                if to_bias:
                    grad_bias_V = slope_CV.sum(0) if grad_bias_V is None else grad_bias_V + slope_CV.sum(0)
                if grad_hidden_MD is not None:
                    grad_hidden_MD[rows] = (slope_CV.to(ctx.dtype) @ cast_VD).to(hidden_MD.dtype)
                if to_weight and grad_weight_VD is None:
                    grad_weight_VD = slope_CV.T @ hidden_CD.to(ctx.exact)
                elif to_weight:
                    grad_weight_VD.addmm_(slope_CV.T, hidden_CD.to(ctx.exact))
        if to_weight:
            grad_weight_VD = (
                torch.zeros_like(weight_VD) if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype)
            )
        if to_bias:
            grad_bias_V = torch.zeros_like(bias_V) if grad_bias_V is None else grad_bias_V.to(bias_V.dtype)
        return grad_hidden_MD, grad_weight_VD, grad_bias_V, None, None, None, None


def _copies(kept_MV: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """Which rows, and a copy of them that may be written to until the next are asked for."""
    copy_CV = kept_MV.new_empty(min(chunk, len(kept_MV)), kept_MV.shape[1])
    for low in range(0, len(kept_MV), chunk):
        rows = slice(low, min(low + chunk, len(kept_MV)))
        yield rows, copy_CV[: rows.stop - low].copy_(kept_MV[rows])

"""Greedy decoding: the most likely token at each step, for many rows at once.

Shapes: B questions, K readings a question, N = B*K rows, R answers being written, A of them not finished yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rag_exp.models.buckets import length_buckets
from rag_exp.models.decoding.costs import written_counts
from rag_exp.models.decoding.grouping import CACHED, evaluating, in_order, rows_of
from rag_exp.models.decoding.next_token import likeliest
from rag_exp.models.decoding.prompts import Prompts, check_room
from rag_exp.models.flops import TokenCounts
from rag_exp.models.packing import ReaderBatch
from rag_exp.models.reader import Generator

CROP_BELOW = 0.75  # finished rows are dropped once fewer than this share is still being written


@dataclass(frozen=True)
class Written:
    """Answers of R rows.

    Attributes:
        ids: tokens of each answer, end token left out.
        logp_R: log-probability of each answer as far as it was written, its end token included.
        finished_R: whether the end token was written before ``max_new_tokens``.
        target_logp_NT: log-probabilities of the batch's own answers, as ``Generator.token_logp`` gives them; None
            where it has none.
        counts: tokens processed: prompts, scored answers and written ones.
    """

    ids: list[list[int]]
    logp_R: Tensor
    finished_R: Tensor
    target_logp_NT: Tensor | None
    counts: TokenCounts


@torch.no_grad()
def greedy(generator: Generator, batch: ReaderBatch, max_new_tokens: int) -> Written:
    """The most likely token at each step, for each row by itself (R = N rows).

    Raises:
        DataError: a prompt and ``max_new_tokens`` do not fit the generator's context.
    """
    return _write(generator, batch, max_new_tokens, None)


@torch.no_grad()
def greedy_token_marginal(
    generator: Generator, batch: ReaderBatch, doc_logprior_BK: Tensor, max_new_tokens: int
) -> Written:
    """The most likely token of the RAG-Token marginal at each step (R = B questions).

    p(y_t|x,y_<t) = sum_z p(z|x) p(y_t|x,z,y_<t) (Lewis et al. 2020, section 2.5), beam of one.

    Args:
        doc_logprior_BK: log p(z|x), -inf for a masked passage; K = ``batch.per_question``.

    Raises:
        DataError: a prompt and ``max_new_tokens`` do not fit the generator's context.
    """
    assert doc_logprior_BK.shape[1] == batch.per_question, "one prior per row of the batch"
    return _write(generator, batch, max_new_tokens, doc_logprior_BK)


def _write(generator: Generator, batch: ReaderBatch, max_new_tokens: int, doc_logprior_BK: Tensor | None) -> Written:
    check_room(generator, batch, max_new_tokens)
    together = 1 if doc_logprior_BK is None else batch.per_question  # rows that write one answer
    longest_R = batch.lengths_N.reshape(-1, together).max(1)
    groups = length_buckets(longest_R, batch.input_ids_NL.device.type, CACHED // together, passes=max_new_tokens)
    parts = []
    with evaluating(generator):
        for group in groups:
            prior_BK = None if doc_logprior_BK is None else doc_logprior_BK[torch.from_numpy(group)]
            parts.append(_steps(generator, batch.select(rows_of(group, together)), max_new_tokens, prior_BK))
    order = torch.from_numpy(np.concatenate(groups).argsort()).to(batch.input_ids_NL.device)
    ids = [row for part in parts for row in part.ids]
    width = 0 if batch.targets_NT is None else batch.targets_NT.shape[1]
    return Written(
        ids=[ids[i] for i in order.tolist()],
        logp_R=torch.cat([p.logp_R for p in parts])[order],
        finished_R=torch.cat([p.finished_R for p in parts])[order],
        target_logp_NT=in_order([p.target_logp_NT for p in parts], groups, together, width),
        counts=sum((p.counts for p in parts), TokenCounts()),
    )


def _steps(generator: Generator, batch: ReaderBatch, max_new_tokens: int, doc_logprior_BK: Tensor | None) -> Written:
    eos = generator.tokenizer.eos
    prompts = Prompts(generator, batch)
    together = 1 if doc_logprior_BK is None else batch.per_question
    R = len(batch.input_ids_NL) // together
    device = batch.input_ids_NL.device
    tokens_RT = torch.full((R, max_new_tokens), eos, device=device)
    logp_R = torch.zeros(R, device=device)
    done_R = torch.zeros(R, dtype=torch.bool, device=device)
    rows_A = torch.arange(R, device=device)  # the answers still being written; A shrinks as answers are finished
    weight_AK = None if doc_logprior_BK is None else doc_logprior_BK.to(device).float().exp()
    written = 0
    for t in range(max_new_tokens):
        logp_A1, token_A1 = likeliest(generator, prompts.states_NS, 1, weight_AK)
        token_A, step_logp_A = token_A1[:, 0], logp_A1[:, 0]
        live_A = ~done_R[rows_A]
        tokens_RT[rows_A, t] = torch.where(live_A, token_A, eos)
        logp_R[rows_A] += torch.where(live_A, step_logp_A, 0.0)
        done_R[rows_A] |= token_A == eos
        written = t + 1
        live_A = ~done_R[rows_A]
        left = int(live_A.sum())
        if left == 0 or written == max_new_tokens:
            break
        if left < CROP_BELOW * len(rows_A):
            kept = live_A.nonzero()[:, 0]
            rows_A, token_A = rows_A[kept], token_A[kept]
            weight_AK = None if weight_AK is None else weight_AK[kept]
            prompts.select((kept[:, None] * together + torch.arange(together, device=device)).flatten())
        prompts.advance(token_A.repeat_interleave(together))
    ends_R = (tokens_RT[:, :written] == eos).int()
    lengths_R = torch.where(ends_R.any(1), ends_R.argmax(1), written)
    ids = [row[:n] for row, n in zip(tokens_RT.tolist(), lengths_R.tolist(), strict=True)]
    steps_N = (lengths_R + done_R).repeat_interleave(together).cpu().numpy()
    fed_NT = np.arange(1, max_new_tokens) < steps_N[:, None]
    counts = batch.counts + written_counts(batch, fed_NT, len(steps_N))
    return Written(ids, logp_R, done_R, prompts.target_logp_NT, counts)

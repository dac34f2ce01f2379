"""Tokens that writing and ranking process beyond the reading of the prompts, for FLOPs."""

from __future__ import annotations

import numpy as np

from rag_exp.models.flops import TokenCounts
from rag_exp.models.packing import ReaderBatch


def written_counts(batch: ReaderBatch, fed_NT: np.ndarray, projected: int) -> TokenCounts:
    """What was fed behind prompts that were read.

    Args:
        batch: the rows' prompts.
        fed_NT: how many tokens (or whether one) were fed behind each row's prompt as its t-th; with beams, one for
            each of them.
        projected: positions whose next-token distribution was computed, beside one for each token fed.
    """
    fed_N, place_T = fed_NT.sum(1), np.arange(fed_NT.shape[1])
    prompt_N = batch.prompt_lengths_N.cpu().numpy()[:: len(batch.lengths_N) // len(fed_NT)]
    fed = int(fed_N.sum())
    if batch.seq2seq:
        squares, cross = int((fed_NT * (2 * place_T + 1)).sum()), int((fed_N * prompt_N).sum())
        return TokenCounts(
            tokens=fed, target_tokens=projected + fed, decoder_tokens=fed, decoder_squares=squares, cross=cross
        )
    squares = int((fed_NT * (2 * (prompt_N[:, None] + place_T) + 1)).sum())
    return TokenCounts(tokens=fed, target_tokens=projected + fed, input_tokens=fed, input_squares=squares)

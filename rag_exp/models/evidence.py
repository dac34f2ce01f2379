"""What a reader says of each passage when it is asked once more, to teach a retriever: no gradients, no dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rag_exp.models.attention import passage_attention
from rag_exp.models.marginalize import sequence_logp
from rag_exp.models.packing import ReaderBatch
from rag_exp.models.reader import Generator


def each_apart(generator: Generator, batch: ReaderBatch) -> Tensor:
    """log p(y|x,z_k) of each passage read by itself, shape [B, K]: one forward pass over B*K rows."""
    with undisturbed(generator):
        logp_NT = generator.token_logp(batch)
    return sequence_logp(logp_NT.view(-1, batch.per_question, logp_NT.shape[-1]), batch.target_mask_BT)


def without_one(generator: Generator, batch: ReaderBatch, K: int) -> Tensor:
    """-log p(y|x,Z without z_k) for each passage, shape [B, K]: high where the answer needs the passage.

    Args:
        batch: B*K rows that read a question's passages together, the k-th of a question without its k-th passage.
        K: passages a question.
    """
    with undisturbed(generator):
        logp_NT = generator.token_logp(batch)
    return -sequence_logp(logp_NT[:, None], batch.target_mask_BT)[:, 0].view(-1, K)


def attended(generator: Generator, batch: ReaderBatch, value_norms: bool) -> Tensor:
    """The logarithm of each passage's attention mass, shape [B, K], of a question's passages fused in the decoder.

    The softmax over K of these is each passage's share of the mass. Arguments and errors are those of
    :func:`rag_exp.models.attention.passage_attention`.
    """
    with undisturbed(generator):
        mass_BK = passage_attention(generator, batch, value_norms)
    return mass_BK.clamp_min(torch.finfo(mass_BK.dtype).tiny).log()


@contextmanager
def undisturbed(generator: Generator) -> Iterator[None]:
    """The generator as it answers: dropout off, nothing kept for a backward pass."""
    trains = generator.training
    generator.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        generator.train(trains)

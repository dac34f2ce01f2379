"""Ranking answers that are given: yes, no or maybe; the options of a multiple choice.

Shapes: B questions, K readings a question, C choices of all questions, T tokens of a choice, end token included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rag_exp.models.decoding.continuations import continuation_logp
from rag_exp.models.decoding.prompts import Prompts
from rag_exp.models.decoding.ranked import Group, Ranked, rank_in_groups
from rag_exp.models.packing import Ids, ReaderBatch
from rag_exp.models.reader import Generator

# (token_logp_CKT, doc_logprior_CK, target_mask_CT) -> nats of each answer, as those of rag_exp.models.marginalize.
Marginal = Callable[[Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def rank_choices(
    generator: Generator,
    batch: ReaderBatch,
    doc_logprior_BK: Tensor,
    choices: Sequence[Sequence[Ids]],
    marginal: Marginal,
    length_penalty: float = 0.0,
) -> Ranked:
    """The choices of each question by their log-probability, end token included, under a marginal.

    Args:
        doc_logprior_BK: log p(z|x), -inf for a masked passage; K = ``batch.per_question``.
        choices: of each question, at least one; without end token. Equal ones are ranked once.
        marginal: what combines the K readings of a choice.
        length_penalty: log-probabilities are divided by length ** this to be compared: 0 not at all, 1 by the number
            of tokens.

    Returns:
        as beams do: ranked by what is divided, with log-probabilities that are not.

    Raises:
        DataError: a prompt and the longest choice do not fit the generator's context.
    """
    K, eos = batch.per_question, generator.tokenizer.eos
    assert doc_logprior_BK.shape == (len(choices), K), "one prior per row of the batch"
    given = [list(dict.fromkeys(tuple([*ids, eos]) for ids in one)) for one in choices]

    def rank(prompts: Prompts, part: ReaderBatch, members: list[int]) -> Group:
        asked = [(b, k, ids) for b, q in enumerate(members) for k in range(K) for ids in given[q]]
        logp_MT, counts = continuation_logp(
            prompts, part, [b * K + k for b, k, _ in asked], [list(ids) for _, _, ids in asked]
        )
        candidates, at = [], 0
        for q in members:
            C = len(given[q])
            lengths_C = torch.tensor([len(ids) for ids in given[q]])
            logp_CKT = logp_MT[at : at + K * C].cpu().double().unflatten(0, (K, C)).transpose(0, 1)
            mask_CT = torch.arange(logp_CKT.shape[2]) < lengths_C[:, None]
            nats_C = marginal(logp_CKT, doc_logprior_BK[q].cpu().double().expand(C, K), mask_CT)
            order_C = (nats_C / lengths_C**length_penalty).argsort(stable=True)
            candidates.append([(list(given[q][c][:-1]), -float(nats_C[c])) for c in order_C.tolist()])
            at += K * C
        return Group(candidates, counts)

    longest = max(len(ids) for one in given for ids in one)
    return rank_in_groups(generator, batch, K, 1, longest, rank)

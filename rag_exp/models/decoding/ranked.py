"""Candidate answers of each question, best first, found group by group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rag_exp.models.buckets import length_buckets
from rag_exp.models.decoding.grouping import cache_groups, evaluating, in_order, rows_of
from rag_exp.models.decoding.prompts import Prompts, check_room
from rag_exp.models.flops import TokenCounts
from rag_exp.models.packing import Ids, ReaderBatch
from rag_exp.models.reader import Generator

Candidate = tuple[Ids, float]  # an answer without its end token, and its score


@dataclass(frozen=True)
class Ranked:
    """Candidates of R questions (or of R rows that answer by themselves).

    Attributes:
        candidates: of each question, distinct and best first; none only where the reader's probabilities are NaN.
        target_logp_NT: log-probabilities of the batch's own answers, as ``Generator.token_logp`` gives them; None
            where it has none.
        counts: tokens processed: prompts, scored answers, and all that was written or scored to rank.
        fast: the best answer of each question by the *fast* rule, where candidates are ranked by the thorough one.
    """

    candidates: list[list[Candidate]]
    target_logp_NT: Tensor | None
    counts: TokenCounts
    fast: list[Ids] | None = None

    @property
    def best(self) -> list[Ids]:
        """The best answer of each."""
        return [ranked[0][0] if ranked else [] for ranked in self.candidates]


@dataclass(frozen=True)
class Group:
    """What was found for a group of questions, and what it cost beside reading the prompts."""

    candidates: list[list[Candidate]]
    counts: TokenCounts
    fast: list[Ids] | None = None


def rank_in_groups(
    generator: Generator,
    batch: ReaderBatch,
    together: int,
    beam: int,
    max_new_tokens: int,
    rank: Callable[[Prompts, ReaderBatch, list[int]], Group],
) -> Ranked:
    """Read prompts and rank answers for as many questions at once as the caches of their beams allow.

    Args:
        together: rows that have one answer.
        beam: hypotheses of each row.
        max_new_tokens: longest answer, end token included.
        rank: ranks the answers of a group, given its prompts, its rows and which questions of the batch they are.

    Raises:
        DataError: a prompt and ``max_new_tokens`` do not fit the generator's context.
    """
    check_room(generator, batch, max_new_tokens)
    device = batch.input_ids_NL.device
    cached_R = (batch.lengths_N + max_new_tokens).reshape(-1, together).sum(1) * beam
    groups = cache_groups(cached_R)
    found: list[Group] = []
    targets: list[Tensor | None] = []
    with evaluating(generator):
        for group in groups:
            part = batch.select(rows_of(group, together))
            prompts = Prompts(generator, part, length_buckets(part.lengths_N, device.type))
            targets.append(prompts.target_logp_NT)
            found.append(rank(prompts, part, group.tolist()))
    order = np.concatenate(groups).argsort().tolist()
    candidates = [one for part in found for one in part.candidates]
    fast = None if found[0].fast is None else [one for part in found for one in part.fast or []]
    width = 0 if batch.targets_NT is None else batch.targets_NT.shape[1]
    return Ranked(
        candidates=[candidates[i] for i in order],
        target_logp_NT=in_order(targets, groups, together, width),
        counts=sum((part.counts for part in found), batch.counts),
        fast=None if fast is None else [fast[i] for i in order],
    )

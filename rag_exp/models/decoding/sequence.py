"""RAG-Sequence decoding (Lewis et al. 2020, section 2.5): beams for each passage, then one answer for them all.

log p(y|x) = logsumexp_z [ log p(z|x) + log p(y|x,z) ] does not break into steps, so candidates are found by beam
search given each passage alone. *Thorough* decoding then scores every candidate given every passage; *fast*
decoding takes a candidate to have no probability given a passage whose beams did not produce it.

Shapes: B questions, K readings a question, N = B*K rows, C candidates of one question.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rag_exp.models.decoding.beam import Found, Search, run, without_end
from rag_exp.models.decoding.continuations import continuation_logp
from rag_exp.models.decoding.costs import written_counts
from rag_exp.models.decoding.prompts import Prompts
from rag_exp.models.decoding.ranked import Candidate, Group, Ranked, rank_in_groups
from rag_exp.models.flops import TokenCounts
from rag_exp.models.packing import Ids, ReaderBatch
from rag_exp.models.reader import Generator

NEG_INF = float("-inf")
# For one question: each candidate (end token included where it was written) -> its log-probability by reading.
Readings = dict[tuple[int, ...], dict[int, float]]


@torch.no_grad()
def fast(generator: Generator, batch: ReaderBatch, doc_logprior_BK: Tensor, search: Search) -> Ranked:
    """Candidates by log sum_z p(z|x) p(y|x,z) over the passages whose beams produced them.

    Args:
        doc_logprior_BK: log p(z|x), -inf for a masked passage, whose answers are no candidates.
        search: its length penalty decides what a beam holds; candidates are compared by the sum above alone.

    Raises:
        DataError: a prompt and ``max_new_tokens`` do not fit the generator's context.
    """
    assert doc_logprior_BK.shape[1] == batch.per_question, "one prior per row of the batch"
    eos = generator.tokenizer.eos

    def rank(prompts: Prompts, part: ReaderBatch, members: list[int]) -> Group:
        prior_BK = doc_logprior_BK[members]
        found, counts = _searched(prompts, part, search, eos)
        return Group(_ranked(_proposed(found, prior_BK), prior_BK, eos), counts)

    return rank_in_groups(generator, batch, batch.per_question, search.beam, search.max_new_tokens, rank)


@torch.no_grad()
def thorough(generator: Generator, batch: ReaderBatch, doc_logprior_BK: Tensor, search: Search) -> Ranked:
    """Candidates by log sum_z p(z|x) p(y|x,z) over all passages.

    A candidate is scored only where its log-probability is not known from the beams, behind the cached prompts, all
    questions of a group together. What *fast* decoding would have answered comes with it.

    Arguments and errors as for :func:`fast`.
    """
    assert doc_logprior_BK.shape[1] == batch.per_question, "one prior per row of the batch"
    eos = generator.tokenizer.eos

    def rank(prompts: Prompts, part: ReaderBatch, members: list[int]) -> Group:
        prior_BK = doc_logprior_BK[members]
        found, counts = _searched(prompts.branch(), part, search, eos)
        readings = _proposed(found, prior_BK)
        by_fast = [ranked[0][0] if ranked else [] for ranked in _ranked(readings, prior_BK, eos)]
        counts += _complete(readings, prompts, part, prior_BK)
        return Group(_ranked(readings, prior_BK, eos), counts, by_fast)

    return rank_in_groups(generator, batch, batch.per_question, search.beam, search.max_new_tokens, rank)


def fast_sequence(ids: Sequence[Ids], logp_N: Tensor, doc_logprior_BK: Tensor) -> list[list[Candidate]]:
    """The fast rule over one answer of each passage: candidates of each question, best first.

    Args:
        ids: the N = B*K answers, a question's passages side by side.
        logp_N: log p(y|x,z) of each.
        doc_logprior_BK: log p(z|x), -inf for a masked passage, whose answer is no candidate.

    Returns:
        for each question its distinct (ids, score), by falling score, then in order of rank.
    """
    assert len(ids) == len(logp_N) == doc_logprior_BK.numel(), "one answer per passage"
    found = Found([[list(row)] for row in ids], [[x] for x in logp_N.tolist()], torch.empty(0))
    return _ranked(_proposed(found, doc_logprior_BK), doc_logprior_BK, eos=None)


def _searched(prompts: Prompts, part: ReaderBatch, search: Search, eos: int) -> tuple[Found, TokenCounts]:
    found = run(prompts, search, eos, None)
    return found, written_counts(part, found.fed_RT.cpu().numpy(), len(found.tokens))


def _proposed(found: Found, prior_BK: Tensor) -> list[Readings]:
    """The union of what the beams of a question's passages hold, duplicates merged, in order of rank."""
    B, K = prior_BK.shape
    live_BK = (prior_BK > NEG_INF).tolist()
    questions: list[Readings] = [{} for _ in range(B)]
    for n, (answers, logp) in enumerate(zip(found.tokens, found.logp, strict=True)):
        b, k = divmod(n, K)
        if live_BK[b][k]:
            for ids, value in zip(answers, logp, strict=True):
                questions[b].setdefault(tuple(ids), {})[k] = value
    return questions


def _complete(questions: list[Readings], prompts: Prompts, part: ReaderBatch, prior_BK: Tensor) -> TokenCounts:
    """Add the log-probability of every candidate given the passages whose beams do not hold it."""
    K = prior_BK.shape[1]
    wanted = [
        (b, k, ids)
        for b, readings in enumerate(questions)
        for k in (prior_BK[b] > NEG_INF).nonzero()[:, 0].tolist()
        for ids, known in readings.items()
        if k not in known
    ]
    if not wanted:
        return TokenCounts()
    rows, continuations = [b * K + k for b, k, _ in wanted], [list(ids) for _, _, ids in wanted]
    logp_MT, counts = continuation_logp(prompts, part, rows, continuations)
    for (b, k, ids), value in zip(wanted, logp_MT.double().sum(1).tolist(), strict=True):
        questions[b][ids][k] = value
    return counts


def _ranked(questions: list[Readings], prior_BK: Tensor, eos: int | None) -> list[list[Candidate]]:
    """Candidates by the RAG-Sequence sum over the readings that are known, best first."""
    ranked = []
    for prior_K, readings in zip(prior_BK.double().tolist(), questions, strict=True):
        scored = []
        for ids, known in readings.items():
            joint = torch.tensor([prior_K[k] + logp for k, logp in known.items()], dtype=torch.float64)
            scored.append((list(ids) if eos is None else without_end(list(ids), eos), float(joint.logsumexp(0))))
        ranked.append(sorted(scored, key=lambda candidate: -candidate[1]))
    return ranked

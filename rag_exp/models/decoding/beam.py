"""Beam search over log-probabilities, for many answers at once.

The definition. A hypothesis is a sequence of tokens; its score is the sum of their log-probabilities, end token
included. At each step the W running hypotheses are continued by every token, and the 2W best continuations are
looked at: those that end and are among the best W are put away, of the others the best W run on. A search is over
when W are put away and no running one can still beat the worst of them, or at ``max_new_tokens``, where what runs
competes with what it has. Scores only fall as a hypothesis grows, so nothing that this search would return is lost
by stopping then. One beam is greedy decoding.

transformers' ``generate`` searches alike under ``length_penalty=0.0, early_stopping="never"``. Its defaults are
others: it divides scores by length ** 1.0, and by ``early_stopping=False`` it stops where a running hypothesis
*as long as it is now* would not win, though a longer one might. Here ``length_penalty`` is 0 unless asked for; it
divides by the same length (new tokens, end token included) ** penalty, and the bound for stopping takes the
longest answer there could be, as their "never" does.

Shapes: R searches, A of them still running, H <= W running hypotheses each, C continuations looked at, K readings
that write one answer (the rows of a hypothesis are R x H x K, its K caches side by side), V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rag_exp.models.decoding.costs import written_counts
from rag_exp.models.decoding.next_token import likeliest
from rag_exp.models.decoding.prompts import Prompts
from rag_exp.models.decoding.ranked import Candidate, Group, Ranked, rank_in_groups
from rag_exp.models.packing import Ids, ReaderBatch
from rag_exp.models.reader import Generator

NEG_INF = float("-inf")


@dataclass(frozen=True)
class Search:
    """How to search.

    Attributes:
        max_new_tokens: longest answer, end token included.
        beam: W, hypotheses kept.
        length_penalty: a hypothesis' log-probability is divided by its length ** this to be compared; >= 0.
    """

    max_new_tokens: int
    beam: int = 4
    length_penalty: float = 0.0


@dataclass(frozen=True)
class Found:
    """What R searches found, each best first.

    Attributes:
        tokens: at most W answers a search, the end token included where it was written.
        logp: their log-probabilities, not divided by anything.
        fed_RT: hypotheses that were fed a t-th token.
    """

    tokens: list[list[Ids]]
    logp: list[list[float]]
    fed_RT: Tensor


@torch.no_grad()
def beam_search(generator: Generator, batch: ReaderBatch, search: Search) -> Ranked:
    """The answers that beam search finds for each row by itself (N rows), best first.

    Raises:
        DataError: a prompt and ``max_new_tokens`` do not fit the generator's context.
    """
    return _beam(generator, batch, search, None)


@torch.no_grad()
def beam_token_marginal(generator: Generator, batch: ReaderBatch, doc_logprior_BK: Tensor, search: Search) -> Ranked:
    """The answers that beam search finds under the RAG-Token marginal, for each question, best first.

    p(y_t|x,y_<t) = sum_z p(z|x) p(y_t|x,z,y_<t) (Lewis et al. 2020, section 2.5).

    Args:
        doc_logprior_BK: log p(z|x), -inf for a masked passage; K = ``batch.per_question``.

    Raises:
        DataError: a prompt and ``max_new_tokens`` do not fit the generator's context.
    """
    return _beam(generator, batch, search, doc_logprior_BK)


def _beam(generator: Generator, batch: ReaderBatch, search: Search, doc_logprior_BK: Tensor | None) -> Ranked:
    together = 1 if doc_logprior_BK is None else batch.per_question
    assert doc_logprior_BK is None or doc_logprior_BK.shape[1] == together, "one prior per row of the batch"
    eos = generator.tokenizer.eos

    def rank(prompts: Prompts, part: ReaderBatch, members: list[int]) -> Group:
        found = run(prompts, search, eos, None if doc_logprior_BK is None else doc_logprior_BK[members])
        fed_NT = found.fed_RT.repeat_interleave(together, 0).cpu().numpy()
        return Group(found_candidates(found, eos), written_counts(part, fed_NT, len(fed_NT)))

    return rank_in_groups(generator, batch, together, search.beam, search.max_new_tokens, rank)


def found_candidates(found: Found, eos: int) -> list[list[Candidate]]:
    """(ids without end token, log-probability) of all that each search found."""
    return [
        [(without_end(ids, eos), logp) for ids, logp in zip(*one, strict=True)]
        for one in zip(found.tokens, found.logp, strict=True)
    ]


def without_end(ids: Ids, eos: int) -> Ids:
    """An answer's tokens but its end token."""
    return ids[:-1] if ids and ids[-1] == eos else ids


def run(prompts: Prompts, search: Search, eos: int, prior_RK: Tensor | None) -> Found:
    """Search from prompts that have been read, which are used up by it.

    Args:
        prior_RK: log of the weights of the K rows that write one answer together; None where each row writes its own.
    """
    states_NS = prompts.states_NS
    device, W, T = states_NS.device, search.beam, search.max_new_tokens
    K = 1 if prior_RK is None else prior_RK.shape[1]
    R = len(states_NS) // K
    away = _Away(R, W, T, device)
    fed_RT = torch.zeros(R, max(T - 1, 0), dtype=torch.long, device=device)
    searches_A = torch.arange(R, device=device)
    weight_AK = None if prior_RK is None else prior_RK.to(device).float().exp()
    logp_AH = torch.zeros(R, 1, device=device)
    tokens_AHT = torch.full((R, 1, T), eos, device=device)
    for t in range(T):
        A, H = logp_AH.shape
        weight_XK = None if weight_AK is None else weight_AK.repeat_interleave(H, 0)
        step_XM, token_XM = likeliest(prompts.generator, prompts.states_NS, 2 * W, weight_XK)
        step_AHM, M = step_XM.unflatten(0, (A, H)), token_XM.shape[1]
        logp_AC, at_AC = (logp_AH[:, :, None] + step_AHM).flatten(1).topk(min(2 * W, H * M))
        parent_AC, token_AC = at_AC // M, token_XM.reshape(A, -1).gather(1, at_AC)
        tokens_ACT = _taken(tokens_AHT, parent_AC)
        tokens_ACT[:, :, t] = token_AC
        ends_AC = token_AC == eos
        away_AC = ends_AC if t + 1 < T else torch.ones_like(ends_AC)
        away.put(searches_A, logp_AC[:, :W].masked_fill(~away_AC[:, :W], NEG_INF), tokens_ACT[:, :W], t + 1, search)
        if t + 1 == T:
            break
        logp_AH, best_AH = logp_AC.masked_fill(ends_AC, NEG_INF).sort(dim=1, descending=True, stable=True)
        logp_AH, best_AH = logp_AH[:, :W], best_AH[:, :W]
        best_possible_A = logp_AH[:, 0] / T**search.length_penalty
        live = (best_possible_A > away.worst(searches_A)).nonzero()[:, 0]
        if len(live) == 0:
            break
        logp_AH, best_AH, searches_A = logp_AH[live], best_AH[live], searches_A[live]
        weight_AK = None if weight_AK is None else weight_AK[live]
        tokens_AHT = _taken(tokens_ACT[live], best_AH)
        fed_RT[searches_A, t] = (logp_AH > NEG_INF).sum(1)
        hypothesis_AH = live[:, None] * H + parent_AC[live].gather(1, best_AH)
        row_AHK = hypothesis_AH[:, :, None] * K + torch.arange(K, device=device)
        prompts.select(row_AHK.flatten())
        prompts.advance(tokens_AHT[:, :, t].flatten().repeat_interleave(K))
    return away.found(fed_RT)


def _taken(tokens_AHT: Tensor, index_AC: Tensor) -> Tensor:
    return tokens_AHT.gather(1, index_AC[:, :, None].expand(-1, -1, tokens_AHT.shape[2]))


class _Away:
    """The W best answers of each search that are put away, best first; -inf where there is none yet."""

    def __init__(self, R: int, W: int, T: int, device: torch.device):
        self._score_RW = torch.full((R, W), NEG_INF, device=device)
        self._logp_RW = torch.full((R, W), NEG_INF, device=device)
        self._tokens_RWT = torch.zeros(R, W, T, dtype=torch.long, device=device)
        self._length_RW = torch.zeros(R, W, dtype=torch.long, device=device)

    def put(self, searches_A: Tensor, logp_AC: Tensor, tokens_ACT: Tensor, length: int, search: Search) -> None:
        """Offer answers of ``length`` tokens; -inf where there is none."""
        W = self._score_RW.shape[1]
        score = torch.cat([self._score_RW[searches_A], logp_AC / length**search.length_penalty], dim=1)
        score, best = score.sort(dim=1, descending=True, stable=True)
        best = best[:, :W]
        self._score_RW[searches_A] = score[:, :W]
        logp = torch.cat([self._logp_RW[searches_A], logp_AC], dim=1)
        self._logp_RW[searches_A] = logp.gather(1, best)
        lengths = torch.cat([self._length_RW[searches_A], torch.full_like(logp_AC, length, dtype=torch.long)], dim=1)
        self._length_RW[searches_A] = lengths.gather(1, best)
        self._tokens_RWT[searches_A] = _taken(torch.cat([self._tokens_RWT[searches_A], tokens_ACT], dim=1), best)

    def worst(self, searches_A: Tensor) -> Tensor:
        """What a running hypothesis must beat."""
        return self._score_RW[searches_A, -1]

    def found(self, fed_RT: Tensor) -> Found:
        tokens, logp = [], []
        for rows, lengths, values in zip(
            self._tokens_RWT.tolist(), self._length_RW.tolist(), self._logp_RW.tolist(), strict=True
        ):
            there = [w for w, value in enumerate(values) if value > NEG_INF]
            tokens.append([rows[w][: lengths[w]] for w in there])
            logp.append([values[w] for w in there])
        return Found(tokens, logp, fed_RT)

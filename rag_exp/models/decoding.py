"""Writing answers: greedy decoding of a whole batch of rows at once, with cached keys and values.

Prompts are read once, right-padded as for scoring, so a batch that has answers is scored in the same
pass. New tokens are appended behind the padding: their positions are each row's own, and a mask hides
the padding (and the scored answer) from them, which is the same computation as decoding the row alone.
A causal model for which this would not hold (it takes no position ids, or some layer does not attend
to everything before it) is read in groups of equal length, without padding.

Shapes: B questions, K passages, N = B*K rows, L input tokens, T target tokens, V vocabulary, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rag_exp.core.errors import DataError
from rag_exp.models.buckets import length_buckets
from rag_exp.models.flops import TokenCounts
from rag_exp.models.packing import ReaderBatch
from rag_exp.models.reader import Generator, target_index

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


@torch.inference_mode()
def greedy(generator: Generator, batch: ReaderBatch, max_new_tokens: int) -> Written:
    """The most likely token at each step, for each row by itself (R = N rows).

    Raises:
        DataError: a prompt and ``max_new_tokens`` do not fit the generator's context.
    """
    return _write(generator, batch, max_new_tokens, None)


@torch.inference_mode()
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


def fast_sequence(
    ids: Sequence[Sequence[int]], logp_N: Tensor, doc_logprior_BK: Tensor
) -> list[list[tuple[list[int], float]]]:
    """RAG-Sequence "fast" decoding (Lewis et al. 2020, section 2.5): candidates of each question, best first.

    A candidate is an answer that some passage produced. Its score is log sum_z p(z|x) p(y|x,z) over the
    passages that produced it; those that did not are taken to give it no probability.

    Args:
        ids: the N = B*K answers, a question's passages side by side.
        logp_N: log p(y|x,z) of each.
        doc_logprior_BK: log p(z|x), -inf for a masked passage, whose answer is no candidate.

    Returns:
        for each question its distinct (ids, score), by falling score, then in order of rank.
    """
    B, K = doc_logprior_BK.shape
    assert len(ids) == B * K == len(logp_N), "one answer per passage"
    joint_BK = (doc_logprior_BK.double() + logp_N.view(B, K).double()).tolist()
    prior_BK = doc_logprior_BK.tolist()
    found = []
    for b in range(B):
        by_answer: dict[tuple[int, ...], list[float]] = {}
        for k in range(K):
            if prior_BK[b][k] != float("-inf"):
                by_answer.setdefault(tuple(ids[b * K + k]), []).append(joint_BK[b][k])
        scores = {y: float(torch.tensor(s, dtype=torch.float64).logsumexp(0)) for y, s in by_answer.items()}
        found.append([(list(y), scores[y]) for y in sorted(scores, key=lambda y: -scores[y])])
    return found


def _write(generator: Generator, batch: ReaderBatch, max_new_tokens: int, doc_logprior_BK: Tensor | None) -> Written:
    _check_room(generator, batch, max_new_tokens)
    trains = generator.training
    generator.eval()  # no dropout while writing
    try:
        together = 1 if doc_logprior_BK is None else batch.per_question  # rows that write one answer
        groups = length_buckets(batch.lengths_N.reshape(-1, together).max(1), batch.input_ids_NL.device.type)
        parts = []
        for group in groups:
            rows = (group[:, None] * together + np.arange(together)).ravel()
            prior_BK = None if doc_logprior_BK is None else doc_logprior_BK[torch.from_numpy(group)]
            parts.append(_steps(generator, batch.select(rows), max_new_tokens, prior_BK))
        return _together(parts, groups, batch, together)
    finally:
        generator.train(trains)


def _together(parts: list[Written], groups: list[np.ndarray], batch: ReaderBatch, together: int) -> Written:
    """Answers of groups of rows, put back into the batch's order."""
    places = np.concatenate(groups)
    order = torch.from_numpy(places.argsort()).to(parts[0].logp_R.device)
    ids = [row for part in parts for row in part.ids]
    target_logp_NT = None
    if batch.targets_NT is not None:
        T = batch.targets_NT.shape[1]
        scored = [torch.nn.functional.pad(p.target_logp_NT, (0, T - p.target_logp_NT.shape[1])) for p in parts]
        row_order = order[:, None] * together + torch.arange(together, device=order.device)
        target_logp_NT = torch.cat(scored)[row_order.flatten()]
    return Written(
        ids=[ids[i] for i in order.tolist()],
        logp_R=torch.cat([p.logp_R for p in parts])[order],
        finished_R=torch.cat([p.finished_R for p in parts])[order],
        target_logp_NT=target_logp_NT,
        counts=sum((p.counts for p in parts), TokenCounts()),
    )


def _steps(generator: Generator, batch: ReaderBatch, max_new_tokens: int, doc_logprior_BK: Tensor | None) -> Written:
    eos = generator.tokenizer.eos
    reading = _Reading(generator, batch)
    together = 1 if doc_logprior_BK is None else batch.per_question  # rows that write one answer
    R = len(batch.input_ids_NL) // together
    device = batch.input_ids_NL.device
    tokens_RT = torch.full((R, max_new_tokens), eos, device=device)
    logp_R = torch.zeros(R, device=device)
    done_R = torch.zeros(R, dtype=torch.bool, device=device)
    rows_A = torch.arange(R, device=device)  # the answers still in the reading; A shrinks as answers are finished
    prior_AK = None if doc_logprior_BK is None else doc_logprior_BK.to(device).float()
    written = 0
    for t in range(max_new_tokens):
        token_A, step_logp_A = _best(reading.logits, prior_AK)
        live_A = ~done_R[rows_A]
        tokens_RT[rows_A, t] = torch.where(live_A, token_A, eos)
        logp_R[rows_A] += torch.where(live_A, step_logp_A, 0.0)
        done_R[rows_A] |= token_A == eos
        written = t + 1
        live_A = ~done_R[rows_A]
        left = int(live_A.sum())
        if left == 0 or written == max_new_tokens:
            break
        if left < CROP_BELOW * len(rows_A) and reading.can_keep:
            kept = live_A.nonzero()[:, 0]
            rows_A, token_A = rows_A[kept], token_A[kept]
            prior_AK = None if prior_AK is None else prior_AK[kept]
            reading.keep((kept[:, None] * together + torch.arange(together, device=device)).flatten())
        reading.advance(token_A.repeat_interleave(together))
    ends_R = (tokens_RT[:, :written] == eos).int()
    lengths_R = torch.where(ends_R.any(1), ends_R.argmax(1), written)
    ids = [row[:n] for row, n in zip(tokens_RT.tolist(), lengths_R.tolist(), strict=True)]
    steps_N = (lengths_R + done_R).repeat_interleave(together)
    counts = batch.counts + _counts(batch, steps_N)
    return Written(ids, logp_R, done_R, reading.target_logp_NT, counts)


def _best(logits_NV: Tensor, prior_AK: Tensor | None) -> tuple[Tensor, Tensor]:
    """The most likely next token and its log-probability, of each row or of the marginal over K rows each."""
    if prior_AK is None:
        best_A, token_A = logits_NV.max(-1)
        return token_A, best_A - logits_NV.logsumexp(-1)
    p_AKV = logits_NV.softmax(-1).unflatten(0, prior_AK.shape)
    best_A, token_A = torch.bmm(prior_AK.exp()[:, None, :], p_AKV)[:, 0].max(-1)
    return token_A, best_A.log()


def _check_room(generator: Generator, batch: ReaderBatch, max_new_tokens: int) -> None:
    longest = len(generator.decoder_start) if generator.seq2seq else int(batch.prompt_lengths_N.max())
    if longest + max_new_tokens - 1 > generator.context:
        raise DataError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones do not fit the generator's context of "
            f"{generator.context}; lower evaluation.max_new_tokens to prompt.max_answer_tokens at most."
        )


def _counts(batch: ReaderBatch, steps_N: Tensor) -> TokenCounts:
    """What writing cost beyond reading: each step projects one position and, but the last, feeds one token."""
    fed_N = (steps_N - 1).clamp(min=0).cpu()
    prompt_N = batch.prompt_lengths_N.cpu()
    fed, targets = int(fed_N.sum()), int(steps_N.sum())
    if batch.seq2seq:
        squares, cross = int((fed_N**2).sum()), int((fed_N * prompt_N).sum())
        return TokenCounts(tokens=fed, target_tokens=targets, decoder_tokens=fed, decoder_squares=squares, cross=cross)
    squares = int(((prompt_N + fed_N) ** 2 - prompt_N**2).sum())
    return TokenCounts(tokens=fed, target_tokens=targets, input_tokens=fed, input_squares=squares)


class _Reading:
    """Prompts that have been read, and the distribution of the next token.

    Attributes:
        logits: [N, V] in float32, of the rows that are left, in their order.
        target_logp_NT: of the batch's answers, where it has some.
        can_keep: whether rows can be dropped.
    """

    def __init__(self, generator: Generator, batch: ReaderBatch):
        start = _Seq2SeqRows if generator.seq2seq else _CausalRows
        N = len(batch.input_ids_NL)
        if generator.seq2seq or _pads_freely(generator.model):
            groups = [torch.arange(N, device=batch.input_ids_NL.device)]
        else:
            groups = [(batch.prompt_lengths_N == n).nonzero()[:, 0] for n in batch.prompt_lengths_N.unique()]
        self._rows, self._parts, self.target_logp_NT = groups, [], None
        for rows in groups:
            part = start(generator, batch, rows, padded=len(groups) == 1)
            self._parts.append(part)
        if batch.targets_NT is not None:
            if len(groups) == 1:
                self.target_logp_NT = self._parts[0].target_logp_NT
            else:  # the scored answers differ in length, so that they cannot share an unpadded pass
                self.target_logp_NT = generator.token_logp(batch)
        self.can_keep = all(hasattr(p.cache, "batch_select_indices") for p in self._parts)

    @property
    def logits(self) -> Tensor:
        if len(self._parts) == 1:
            return self._parts[0].logits
        order = torch.cat(self._rows).argsort()
        return torch.cat([p.logits for p in self._parts])[order]

    def advance(self, tokens_N: Tensor) -> None:
        """Feed one token to each row."""
        for rows, part in zip(self._rows, self._parts, strict=True):
            part.advance(tokens_N[rows])

    def keep(self, kept: Tensor) -> None:
        """Drop all rows but ``kept`` (their places among the present rows, ascending)."""
        new = torch.full((sum(map(len, self._rows)),), -1, device=kept.device)
        new[kept] = torch.arange(len(kept), device=kept.device)
        rows, parts = [], []
        for old, part in zip(self._rows, self._parts, strict=True):
            inside = (new[old] >= 0).nonzero()[:, 0]
            if len(inside):
                part.keep(inside)
                rows.append(new[old[inside]])
                parts.append(part)
        self._rows, self._parts = rows, parts


class _CausalRows:
    """Rows of a decoder-only model: their cache, and what of it each row may see."""

    def __init__(self, generator: Generator, batch: ReaderBatch, rows: Tensor, padded: bool):
        self._generator, self.target_logp_NT = generator, None
        lengths_N = batch.prompt_lengths_N[rows]
        ids_NL = batch.input_ids_NL[rows] if padded else batch.input_ids_NL[rows, : int(lengths_N[0])]
        N, L = ids_NL.shape
        last_N = torch.arange(N, device=ids_NL.device) * L + lengths_N - 1
        scores = padded and batch.targets_NT is not None
        index = torch.cat([last_N, target_index(batch)]) if scores else last_N
        out = generator.projected(index, input_ids=ids_NL, use_cache=True)
        self.cache: Any = out.past_key_values
        self.logits = out.logits[0, :N].float()
        if scores:
            assert batch.targets_NT is not None
            self.target_logp_NT = generator.target_logp(out.logits[0, N:], batch.targets_NT)
        self._positions = lengths_N if padded else None
        self._mask_NL = (torch.arange(L, device=ids_NL.device) < lengths_N[:, None]).long()

    def advance(self, tokens_N: Tensor) -> None:
        self._mask_NL = torch.nn.functional.pad(self._mask_NL, (0, 1), value=1)
        where: dict[str, Any] = {}
        if self._positions is not None:
            where = {"attention_mask": self._mask_NL, "position_ids": self._positions[:, None]}
            self._positions = self._positions + 1
        out = self._generator.model(input_ids=tokens_N[:, None], past_key_values=self.cache, use_cache=True, **where)
        self.logits = out.logits[:, -1].float()

    def keep(self, kept: Tensor) -> None:
        self.cache.batch_select_indices(kept)
        self.logits, self._mask_NL = self.logits[kept], self._mask_NL[kept]
        if self._positions is not None:
            self._positions = self._positions[kept]


class _Seq2SeqRows:
    """Rows of a sequence-to-sequence model: encoded prompts and the decoder's cache."""

    def __init__(self, generator: Generator, batch: ReaderBatch, rows: Tensor, padded: bool):
        self._generator, self.target_logp_NT = generator, None
        self._mask_NL = batch.attention_mask_NL
        encoder = generator.model.get_encoder()
        self._encoded = encoder(input_ids=batch.input_ids_NL, attention_mask=self._mask_NL, return_dict=True)
        self.cache: Any = None
        if batch.targets_NT is not None:
            self.target_logp_NT = generator.padded_token_logp(batch, encoded=self._encoded)
        start = torch.tensor(generator.decoder_start, device=rows.device).expand(len(rows), -1)
        self._decode(start)

    def advance(self, tokens_N: Tensor) -> None:
        self._decode(tokens_N[:, None])

    def _decode(self, ids_NT: Tensor) -> None:
        out = self._generator.model(
            encoder_outputs=self._encoded,
            attention_mask=self._mask_NL,
            decoder_input_ids=ids_NT,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = out.past_key_values
        self.logits = out.logits[:, -1].float()

    def keep(self, kept: Tensor) -> None:
        self.cache.batch_select_indices(kept)
        self.logits, self._mask_NL = self.logits[kept], self._mask_NL[kept]
        self._encoded.last_hidden_state = self._encoded.last_hidden_state[kept]


def _pads_freely(model: Any) -> bool:
    """Whether rows of unequal length may be read together, new tokens standing behind the padding.

    It takes position ids, which make a token's place in the cache irrelevant, and layers that attend to all
    that is cached (a sliding window would count padding).
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) is DynamicLayer for layer in layers)

"""From token ids to the padded tensors a reader takes.

A row is one prompt: for the marginals a question with one of its K passages (N = B*K rows, the
passages of a question side by side) or with one of its M paths of several passages (N = B*M), for joint reading a
question with all its passages (N = B), for closed-book reading the question alone. For fusion in the decoder (N = B)
it is the K prompts of the marginals one behind the other, each of which is encoded by itself.

Passages are cut to fit the context; the question and the answer never are. Room for
``max_answer_tokens`` is kept whatever the answer, so that the prompt does not depend on it and is the
same when an answer is scored and when one is written.

Shapes: N rows, L input tokens, T target tokens, P passages in a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rag_exp.core.errors import DataError
from rag_exp.data.tokenizer import TextTokenizer
from rag_exp.models.flops import TokenCounts
from rag_exp.models.prompt import PromptOptions

IGNORE = -100  # a target that is not one, by torch's convention

Ids = list[int]
Passage = tuple[Ids, Ids]  # ids of title and text; a title without ids is left out of the prompt


@dataclass(frozen=True)
class ReaderBatch:
    """Padded rows, decoder-only or sequence-to-sequence.

    Attributes:
        input_ids_NL: prompt and, decoder-only, the target without its last token; right-padded with the pad
            id. For seq2seq the encoder's input.
        attention_mask_NL: 1 at tokens, 0 at padding.
        prompt_lengths_N: tokens of the prompt at the start of each row.
        targets_NT: answer and end token, then -100; None where there is no answer to score.
        target_positions_NT: the input position whose hidden state predicts each target (0 where there is
            none); None for seq2seq, where decoder position t predicts target t, and where there is no target.
        seq2seq: whether this is for a sequence-to-sequence reader.
        per_question: rows per question (K for marginals, M for paths, 1 otherwise).
        lengths_N, target_lengths_N: tokens of each row, padding left out (0 targets where there are none), and
        truncated_N, lost_N: how many of its passages were cut, and the tokens they lost. These are numpy
            arrays: they stay on the host, so that asking them never waits for a device.
        parts_NK: for fusion in the decoder, the tokens of the K prompts that a row holds (0: none there), which sum
            to its length, on the host too; None where a row is one prompt.
    """

    input_ids_NL: Tensor
    attention_mask_NL: Tensor
    prompt_lengths_N: Tensor
    targets_NT: Tensor | None
    target_positions_NT: Tensor | None
    seq2seq: bool
    per_question: int
    lengths_N: np.ndarray
    target_lengths_N: np.ndarray
    truncated_N: np.ndarray
    lost_N: np.ndarray
    parts_NK: np.ndarray | None = None

    @property
    def truncated_passages(self) -> int:
        """Passages that were cut to fit."""
        return int(self.truncated_N.sum())

    @property
    def truncated_tokens(self) -> int:
        """Tokens that passages lost by it."""
        return int(self.lost_N.sum())

    @property
    def counts(self) -> TokenCounts:
        """Tokens without padding, for FLOPs."""
        decoder_N = self.target_lengths_N if self.seq2seq else np.zeros_like(self.target_lengths_N)
        prompts = self.lengths_N if self.parts_NK is None else self.parts_NK[self.parts_NK > 0]
        return TokenCounts(
            rows=len(prompts),
            tokens=int((self.lengths_N + decoder_N).sum()),
            target_tokens=int(self.target_lengths_N.sum()),
            input_tokens=int(self.lengths_N.sum()),
            decoder_tokens=int(decoder_N.sum()),
            input_squares=int((prompts**2).sum()),
            decoder_squares=int((decoder_N**2).sum()),
            cross=int((self.lengths_N * decoder_N).sum()),
        )

    def select(self, rows: np.ndarray) -> ReaderBatch:
        """The batch of these rows (whole questions, in order), padding cut to what they need."""
        L, T = int(self.lengths_N[rows].max()), int(self.target_lengths_N[rows].max())
        index = torch.from_numpy(rows).to(self.input_ids_NL.device)
        targets_NT, positions_NT = self.targets_NT, self.target_positions_NT
        return replace(
            self,
            input_ids_NL=self.input_ids_NL[index, :L],
            attention_mask_NL=self.attention_mask_NL[index, :L],
            prompt_lengths_N=self.prompt_lengths_N[index],
            targets_NT=None if targets_NT is None else targets_NT[index, :T],
            target_positions_NT=None if positions_NT is None else positions_NT[index, :T],
            lengths_N=self.lengths_N[rows],
            target_lengths_N=self.target_lengths_N[rows],
            truncated_N=self.truncated_N[rows],
            lost_N=self.lost_N[rows],
            parts_NK=None if self.parts_NK is None else self.parts_NK[rows],
        )

    @property
    def target_mask_BT(self) -> Tensor:
        """True at the target's tokens, once per question."""
        assert self.targets_NT is not None, "this batch has no answers"
        return self.targets_NT[:: self.per_question] != IGNORE

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ReaderBatch:
        """The batch with its tensors on ``device``."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ReaderBatch:
        """The batch with its tensors in page-locked memory (called by torch's DataLoader)."""
        return self._map(lambda t: t.pin_memory())

    def _map(self, change: Any) -> ReaderBatch:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: change(v) for k, v in tensors.items() if isinstance(v, Tensor)})


class Packer:
    """Packs questions, passages and answers for one reader.

    Args:
        tokenizer: the reader's vocabulary.
        options: template, order and answer room.
        context: tokens the reader holds (its encoder, for seq2seq).
        seq2seq: whether answers go to a decoder of their own; the prompt then ends with the end token.
    """

    def __init__(self, tokenizer: TextTokenizer, options: PromptOptions, context: int, seq2seq: bool):
        self.tokenizer, self.options, self.context, self.seq2seq = tokenizer, options, context, seq2seq
        template, passage = options.pieces()
        encoded = tokenizer.encode([text for text, _ in template + passage])
        self._template = [(ids, field) for ids, (_, field) in zip(encoded, template, strict=False)]
        self._passage = [(ids, field) for ids, (_, field) in zip(encoded[len(template) :], passage, strict=True)]
        if options.begin and tokenizer.bos is not None:
            first, field = self._template[0]
            self._template[0] = ([tokenizer.bos, *first], field)
        if seq2seq:
            last, field = self._template[-1]
            self._template[-1] = ([*last, tokenizer.eos], field)

    def tokens(self, texts: Sequence[str], field: str) -> list[Ids]:
        """Ids of texts as they stand in the prompt.

        Args:
            texts: values of ``field``.
            field: "question", "title", "text" or "answer"; the template may put a space before it.
        """
        lead = self.options.lead(field)
        return self.tokenizer.encode([lead + t for t in texts] if lead else texts)

    def fixed_length(self, passages: int) -> int:
        """Tokens of a prompt with ``passages`` passages beside its question, titles and texts."""
        one = sum(len(ids) for ids, _ in self._passage)
        return sum(len(ids) for ids, _ in self._template) + passages * one

    def room_problems(self, questions: Sequence[Ids], answers: Sequence[Ids], passages: int) -> list[str]:
        """Why some prompt cannot be packed: one sentence a problem, none when all fit.

        Args:
            questions: ids of all questions.
            answers: ids of all answers that will be scored, without end token.
            passages: passages in one prompt (1 for marginals, K for joint reading, 0 for closed book).
        """
        problems = []
        most = self.options.max_answer_tokens
        longest = max((len(a) + 1 for a in answers), default=0)
        if longest > most:
            over = sum(len(a) + 1 > most for a in answers)
            problems.append(
                f"prompt.max_answer_tokens: {over} of {len(answers)} answers are longer than {most} tokens (the "
                f"longest has {longest} with its end token); raise it to {longest} or leave those questions out."
            )
        fixed = self.fixed_length(passages)
        question = max((len(q) for q in questions), default=0)
        need = fixed + question + (0 if self.seq2seq else most) + passages  # one token a passage is the least
        if need > self.context:
            answer = "" if self.seq2seq else f" + answer {most}"
            problems.append(
                f"prompt: fixed text {fixed} + longest question {question}{answer} tokens leave no room for "
                f"{passages} passages in the generator's context of {self.context}; shorten the template, lower "
                "prompt.max_answer_tokens or the number of passages read together, or use a longer context."
            )
        if self.seq2seq and most > self.context:
            problems.extend(self.options.problems(self.context, True))
        return problems

    def pack(
        self,
        questions: Sequence[Ids],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[Ids] | None = None,
        joint: bool = False,
        fused: bool = False,
        hops: int = 1,
    ) -> ReaderBatch:
        """Pack B questions into one batch.

        Args:
            questions: ids of each question, by ``tokens(..., "question")``.
            passages: of each question, its passages best first; as many for every question, possibly none
                (closed book). ``([], [])`` stands for an absent one, which adds nothing to a prompt: read by itself
                it leaves the question alone, and the prior is to mask it.
            answers: ids of each answer without end token; None to write answers instead of scoring them.
            joint: whether the passages of a question stand in one prompt.
            fused: whether their prompts, encoded apart, are fused in the decoder; absent passages have none.
            hops: otherwise, how many of them share a prompt: paths of so many passages stand side by side in
                ``passages``, each read in its own order.

        Raises:
            DataError: an answer longer than ``max_answer_tokens``, or a question that leaves no room.
        """
        per_question = {len(p) for p in passages}
        assert len(passages) == len(questions), "one list of passages a question"
        assert len(per_question) == 1, "as many passages for every question"
        K = per_question.pop()
        if joint or K == 0:
            copies, read = 1, [list(p)[:: -1 if self.options.passage_order == "reverse" else 1] for p in passages]
        else:
            assert K % hops == 0, "paths of equally many passages"
            copies = K // hops
            read = [list(row[start : start + hops]) for row in passages for start in range(0, K, hops)]
        P = len(read[0])
        asked = [q for q in questions for _ in range(copies)]
        caps_NP, lost_NP = self._cut(asked, read, P)
        targets = self._targets(answers)
        rows, prompt_lengths = [], np.empty(len(asked), np.int64)
        for n, question in enumerate(asked):
            row = self._prompt(question, read[n], caps_NP[n])
            prompt_lengths[n] = len(row)
            if targets is not None and not self.seq2seq:
                row += targets[n // copies][:-1]
            rows.append(row)
        if fused and copies > 1:
            return self._fused(rows, targets, lost_NP.reshape(len(questions), K), passages)
        return self._batch(rows, prompt_lengths, targets, copies, lost_NP)

    def _fused(
        self, rows: list[Ids], targets: list[Ids] | None, lost_BK: np.ndarray, passages: Sequence[Sequence[Passage]]
    ) -> ReaderBatch:
        """A row a question: its prompts one behind the other, without those of absent passages."""
        assert self.seq2seq, "passages are fused by a decoder that attends to an encoder"
        B, K = lost_BK.shape
        there_BK = np.array([[bool(title or text) for title, text in row] for row in passages])
        there_BK[~there_BK.any(1), 0] = True  # of a question with no passage at all, the question alone
        parts_BK = np.where(there_BK, np.fromiter(map(len, rows), np.int64, B * K).reshape(B, K), 0)
        joined = [list(chain.from_iterable(rows[b * K + k] for k in np.flatnonzero(there_BK[b]))) for b in range(B)]
        return self._batch(joined, parts_BK.sum(1), targets, 1, lost_BK, parts_BK)

    def _targets(self, answers: Sequence[Ids] | None) -> list[Ids] | None:
        if answers is None:
            return None
        most = self.options.max_answer_tokens
        for b, answer in enumerate(answers):
            if len(answer) >= most:
                raise DataError(
                    f"answer {b} of the batch has {len(answer) + 1} tokens with its end token, "
                    f"prompt.max_answer_tokens allows {most}; raise it or leave them out (answers are never cut)."
                )
        return [[*a, self.tokenizer.eos] for a in answers]

    def _cut(self, asked: list[Ids], read: list[list[Passage]], P: int) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens (title, then text) each passage keeps, and how many it loses; both [N, P].

        Where a row is too long, its passages are cut to the largest equal length that fits, so that the
        longest lose first.
        """
        N = len(asked)
        lengths_NP = np.array([[len(t) + len(x) for t, x in row] for row in read], np.int64).reshape(N, P)
        question_N = np.fromiter(map(len, asked), np.int64, N)
        answer = 0 if self.seq2seq else self.options.max_answer_tokens
        there_N = (lengths_NP > 0).sum(1)
        fixed_N = np.array([self.fixed_length(p) for p in range(P + 1)])[there_N]
        room_N = self.context - answer - fixed_N - question_N
        if N and room_N.min() < 0:
            n = int(room_N.argmin())
            raise DataError(
                f"a question of {question_N[n]} tokens does not fit the generator's context of {self.context} beside "
                f"{fixed_N[n]} tokens of template and {answer} of answer; questions are never cut."
            )
        low_N, high_N = np.zeros(N, np.int64), np.full(N, lengths_NP.max(initial=0))
        while (low_N < high_N).any():  # bisect for the largest equal length that fits
            middle_N = (low_N + high_N + 1) // 2
            fits_N = np.minimum(lengths_NP, middle_N[:, None]).sum(1) <= room_N
            low_N, high_N = np.where(fits_N, middle_N, low_N), np.where(fits_N, high_N, middle_N - 1)
        kept_NP = np.minimum(lengths_NP, low_N[:, None])
        return kept_NP, lengths_NP - kept_NP

    def _prompt(self, question: Ids, passages: list[Passage], kept: np.ndarray) -> Ids:
        row: Ids = []
        for ids, field in self._template:
            row += ids
            if field == "question":
                row += question
            elif field == "passages":
                for (title, text), keep in zip(passages, kept.tolist(), strict=True):
                    if title or text:
                        self._add_passage(row, title[:keep], text[: max(0, keep - len(title))])
        return row

    def _add_passage(self, row: Ids, title: Ids, text: Ids) -> None:
        after_no_title = False
        for ids, field in self._passage:
            if not (after_no_title and field == "text"):  # without a title, leave out what parts it from the text
                row += ids
            after_no_title = field == "title" and not title
            if field is not None:
                row += title if field == "title" else text

    def _batch(
        self, rows: list[Ids], prompt_lengths_N: np.ndarray, targets: list[Ids] | None, copies: int,
        lost_NP: np.ndarray, parts_NK: np.ndarray | None = None,
    ) -> ReaderBatch:  # fmt: skip
        input_ids_NL, lengths_N = _pad(rows, self.tokenizer.pad)
        mask_NL = np.arange(input_ids_NL.shape[1]) < lengths_N[:, None]
        targets_NT = positions_NT = None
        answer_N = np.zeros(len(rows), np.int64)
        if targets is not None:
            targets_BT, answer_B = _pad(targets, IGNORE)
            targets_NT, answer_N = targets_BT.repeat(copies, axis=0), answer_B.repeat(copies)
            if not self.seq2seq:
                positions_NT = prompt_lengths_N[:, None] - 1 + np.arange(targets_NT.shape[1])
                positions_NT[targets_NT == IGNORE] = 0
        return ReaderBatch(
            input_ids_NL=torch.from_numpy(input_ids_NL),
            attention_mask_NL=torch.from_numpy(mask_NL.astype(np.int64)),
            prompt_lengths_N=torch.from_numpy(prompt_lengths_N),
            targets_NT=None if targets_NT is None else torch.from_numpy(targets_NT),
            target_positions_NT=None if positions_NT is None else torch.from_numpy(positions_NT),
            seq2seq=self.seq2seq,
            per_question=copies,
            lengths_N=lengths_N,
            target_lengths_N=answer_N,
            truncated_N=(lost_NP > 0).sum(1),
            lost_N=lost_NP.sum(1),
            parts_NK=parts_NK,
        )


def _pad(rows: list[Ids], fill: int) -> tuple[np.ndarray, np.ndarray]:
    """Right-pad to the longest row; also the lengths."""
    lengths_N = np.fromiter(map(len, rows), np.int64, len(rows))
    out_NL = np.full((len(rows), int(lengths_N.max(initial=0))), fill, np.int64)
    flat = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths_N.sum()))
    out_NL[np.arange(out_NL.shape[1]) < lengths_N[:, None]] = flat
    return out_NL, lengths_N

"""What a stage reads: its questions, the passages that go with each, and batches of both as tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rag_exp.core.errors import ConfigError, DataError
from rag_exp.data.passages import PassageTable
from rag_exp.data.questions import QuestionTable
from rag_exp.models.multihop import ListedPaths
from rag_exp.models.objectives import Chain, Objective, RagSequence
from rag_exp.models.packing import Ids, Packer, ReaderBatch
from rag_exp.models.packing import Passage as PassageIds
from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.hop_pairs import gold_pairs
from rag_exp.retrieval.results import SearchResult

ABSENT: PassageIds = ([], [])
TENSORS = ("reader", "scores_BK", "mask_BK", "evidence", "logprior_BM")  # of a Reading, what moves to another device


class PassageTokens:
    """Ids of passages as they stand in a prompt, tokenized when first asked for and kept as int32."""

    def __init__(self, packer: Packer, table: PassageTable):
        self.packer, self.table = packer, table
        self._known: dict[int, tuple[np.ndarray, int]] = {}  # row -> (title and text ids, how many are title)

    def __call__(self, rows_BK: np.ndarray) -> list[list[PassageIds]]:
        """The passages at ``rows_BK``; :data:`ABSENT` where the row is negative."""
        new = [row for row in np.unique(rows_BK).tolist() if row >= 0 and row not in self._known]
        if new:
            texts = self.table.texts(new)
            titles = self.packer.tokens([title for title, _ in texts], "title")
            bodies = self.packer.tokens([text for _, text in texts], "text")
            for row, (title, _), title_ids, body in zip(new, texts, titles, bodies, strict=True):
                title_ids = title_ids if title else []
                self._known[row] = (np.array([*title_ids, *body], dtype=np.int32), len(title_ids))
        return [[self._one(row) for row in rows] for rows in rows_BK.tolist()]

    def _one(self, row: int) -> PassageIds:
        if row < 0:
            return ABSENT
        ids, title = self._known[row]
        return ids[:title].tolist(), ids[title:].tolist()


@dataclass(frozen=True)
class Reading:
    """One batch of a stage.

    Attributes:
        step: which batch it is, counted from 0.
        items: its questions, as positions in the stage's list.
        passages: how many passages it reads.
        reader: the packed rows; None where a live retriever has yet to choose the passages.
        evidence: the rows of the second reading that the retriever's term needs; None where it needs none.
        scores_BK, mask_BK: retrieval scores, and where there is a passage; None where nothing is retrieved.
        logprior_BM: where paths are read, log p(d1,d2|q) of each; then there are no scores.
    """

    step: int
    items: np.ndarray
    passages: int
    reader: ReaderBatch | None
    scores_BK: Tensor | None
    mask_BK: Tensor | None
    evidence: ReaderBatch | None = None
    logprior_BM: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Reading:
        """The batch with its tensors on ``device``."""
        moved: dict[str, Any] = {
            name: part.to(device, non_blocking=non_blocking)
            for name in TENSORS
            if (part := getattr(self, name)) is not None
        }
        return replace(self, **moved)

    def pin_memory(self) -> Reading:
        """The batch in page-locked memory (called by torch's DataLoader)."""
        return replace(self, **{n: part.pin_memory() for n in TENSORS if (part := getattr(self, n)) is not None})


class StageData:
    """The questions of a stage and what is read with them.

    Make one by :meth:`gold`, :meth:`retrieved`, :meth:`listed`, :meth:`closed_book` or :meth:`live`. The passages
    of a path stand side by side, in its order.

    Attributes:
        texts: the wording of each question kept.
        left_out: how many questions were left out for want of a passage to read.
        lengths: int64 [items], the characters of the longest prompt of each, to batch like with like.
        k: passages a question (of the first hop, for a live retriever); 0 for closed book.
        objective: how they are read.
        hop2: the second hop that a live retriever searches; None for one hop.
        null: whether the question alone is one of its readings, the last one, wherever passages are read.
    """

    def __init__(
        self, packer: Packer, questions: QuestionTable, keep: np.ndarray, passages: PassageTable | None,
        rows_QK: np.ndarray | None, scores_QK: np.ndarray | None, k: int, objective: Objective,
        logprior_QM: np.ndarray | None = None, hop2: SecondHop | None = None, null: bool = False,
    ):  # fmt: skip
        self.packer, self.k, self.objective, self.hop2, self.null = packer, k, objective, hop2, null
        self._logprior_QM = logprior_QM
        wording, targets = questions.questions, questions.targets
        self.texts = [wording[q] for q in keep]
        self.left_out = len(questions) - len(keep)
        answers = [targets[q] for q in keep]
        self._questions: list[Ids] = packer.tokens(self.texts, "question")
        self._answers: list[Ids] = packer.tokens(answers, "answer")
        problems = packer.room_problems(self._questions, self._answers, objective.in_one_prompt(k))
        if problems:
            raise ConfigError(problems)
        self._rows_QK, self._scores_QK = rows_QK, scores_QK
        self._tokens = PassageTokens(packer, passages) if passages is not None else None
        self.lengths = np.array([len(q) + len(a) for q, a in zip(self.texts, answers, strict=True)], dtype=np.int64)
        if rows_QK is not None:
            assert passages is not None
            chars_QK = passage_characters(passages, rows_QK)
            together = chars_QK.shape[1] if objective.together else objective.hops
            self.lengths += chars_QK.reshape(len(keep), -1, together).sum(2).max(1)

    @classmethod
    def gold(cls, packer: Packer, questions: QuestionTable, passages: PassageTable, hops: int = 1) -> StageData:
        """Each question with the one gold passage that answers it: the first, or of several hops the last.

        With ``hops`` 2, each with its gold path, both passages in one prompt. Questions without them are left out.

        Raises:
            DataError: no question has one.
            ConfigError: prompts do not fit the reader.
        """
        gold, of_hops = questions.gold, questions.hops
        pairs_Q2 = gold_pairs(gold, questions.gold_of)
        there = (pairs_Q2 >= 0).all(1) if hops == 2 else np.array([bool(rows) for rows in gold], dtype=bool)
        keep = np.flatnonzero(there)
        if len(keep) == 0:
            raise DataError(
                f"The reader's warm-up reads gold passages, and no training question has {hops}. Leave it out "
                "(training.warmup.steps=0) or use questions with gold ids."
            )
        if hops == 2:
            certain_Q1 = np.zeros((len(keep), 1))
            return cls(packer, questions, keep, passages, pairs_Q2[keep], None, 1, Chain(), certain_Q1)
        rows_Q1 = np.array([[gold[q][0] if of_hops[q] == 1 else gold[q][-1]] for q in keep], dtype=np.int64)
        return cls(packer, questions, keep, passages, rows_Q1, np.zeros(rows_Q1.shape, np.float32), 1, RagSequence())

    @classmethod
    def retrieved(
        cls, packer: Packer, questions: QuestionTable, passages: PassageTable, topk: SearchResult,
        objective: Objective | None = None, null: bool = False,
    ) -> StageData:  # fmt: skip
        """Each question with its cached top-k; questions for which nothing was retrieved are left out.

        Raises:
            DataError: ``topk`` is of other questions, or holds no passage at all.
            ConfigError: prompts do not fit the reader.
        """
        if len(topk) != len(questions):
            raise DataError(f"The search result has {len(topk)} rows for {len(questions)} questions; build it again.")
        keep = np.flatnonzero(topk.mask_QK.any(1))
        if len(keep) == 0:
            raise DataError("No passage was retrieved for any training question; there is nothing to train on.")
        kept = topk.of_queries(keep)
        ids_QK, scores_QK, objective = kept.ids_QK, kept.scores_QK, objective or RagSequence()
        return cls(packer, questions, keep, passages, ids_QK, scores_QK, topk.k, objective, null=null)

    @classmethod
    def listed(
        cls, packer: Packer, questions: QuestionTable, passages: PassageTable, paths: ListedPaths, objective: Objective
    ) -> StageData:
        """Each question with its cached paths; questions without any are left out.

        Raises:
            DataError: ``paths`` are of other questions, or there are none at all.
            ConfigError: prompts do not fit the reader.
        """
        if len(paths) != len(questions):
            raise DataError(f"There are paths for {len(paths)} questions, not for {len(questions)}; build them again.")
        keep = np.flatnonzero(paths.mask_QM.any(1))
        if len(keep) == 0:
            raise DataError("No path was found for any training question; there is nothing to train on.")
        kept = paths.of_queries(keep)
        rows_QK = kept.rows_QM2.reshape(len(keep), -1)
        M = kept.logprior_QM.shape[1]
        return cls(packer, questions, keep, passages, rows_QK, None, M, objective, kept.logprior_QM)

    @classmethod
    def closed_book(cls, packer: Packer, questions: QuestionTable) -> StageData:
        """Each question by itself.

        Raises:
            ConfigError: prompts do not fit the reader.
        """
        return cls(packer, questions, np.arange(len(questions)), None, None, None, 0, RagSequence())

    @classmethod
    def live(
        cls, packer: Packer, questions: QuestionTable, passages: PassageTable, k: int,
        objective: Objective | None = None, hop2: SecondHop | None = None, null: bool = False,
    ) -> StageData:  # fmt: skip
        """Each question with the ``k`` passages (or the paths over them) that a retriever, itself in training, will
        find at that step.

        Raises:
            ConfigError: prompts do not fit the reader.
        """
        objective = objective or RagSequence()
        return cls(
            packer, questions, np.arange(len(questions)), passages, None, None, k, objective, hop2=hop2, null=null
        )

    def __len__(self) -> int:
        return len(self.texts)

    def reading(self, step: int, items: np.ndarray) -> Reading:
        """The batch of ``items`` (int64 [B])."""
        if self._rows_QK is not None:
            return self.read(step, items, self._rows_QK[items])
        if self.k == 0:
            return self.read(step, items, np.empty((len(items), 0), np.int64))
        return Reading(step, items, 0, None, None, None)

    def read(self, step: int, items: np.ndarray, rows_BK: np.ndarray) -> Reading:
        """The batch of ``items`` with the passages at ``rows_BK`` (negative: none), targets included.

        Its scores, or its paths' priors, are the cached ones; where passages are not cached, the retriever that chose
        them has theirs.
        """
        passages: Sequence[Sequence[PassageIds]] = [[] for _ in items]
        scores_BK = mask_BK = evidence = logprior_BM = None
        if rows_BK.shape[1]:
            assert self._tokens is not None
            passages = self._tokens(rows_BK)
            if self.null:
                passages = [[*row, ABSENT] for row in passages]
            mask_BK = rows_BK >= 0
            if self._scores_QK is not None:
                scores_BK = np.where(mask_BK, self._scores_QK[items], 0.0).astype(np.float32)
            if self._logprior_QM is not None:
                logprior_BM = self._logprior_QM[items].astype(np.float32)
        questions, answers = [self._questions[i] for i in items], [self._answers[i] for i in items]
        reading = self.objective.reading
        hops = self.objective.hops if rows_BK.shape[1] else 1
        reader = self.packer.pack(
            questions, passages, answers, joint=reading == "concat", fused=reading == "fid", hops=hops
        )
        if self.objective.evidence == "each" and mask_BK is not None:
            evidence = self.packer.pack(questions, passages, answers)
        elif self.objective.evidence == "without_one" and mask_BK is not None:
            K = rows_BK.shape[1]
            lacking = [[*row[:k], ABSENT, *row[k + 1 :]] for row in passages for k in range(K)]
            asked, scored = ([one for one in ids for _ in range(K)] for ids in (questions, answers))
            evidence = self.packer.pack(asked, lacking, scored, joint=reading == "concat", fused=reading == "fid")
        return Reading(
            step,
            items,
            int(mask_BK.sum()) if mask_BK is not None else 0,
            reader,
            torch.from_numpy(scores_BK) if scores_BK is not None else None,
            torch.from_numpy(mask_BK) if mask_BK is not None else None,
            evidence,
            torch.from_numpy(logprior_BM) if logprior_BM is not None else None,
        )

    def wording(self, items: Iterable[int]) -> list[str]:
        """The questions of ``items``."""
        return [self.texts[i] for i in items]


def passage_characters(table: PassageTable, rows_QK: np.ndarray, chunk: int = 65_536) -> np.ndarray:
    """Characters of each passage, int64 [Q, K]; 0 where the row is negative. A cheap stand-in for its tokens."""
    rows, where = np.unique(rows_QK, return_inverse=True)
    sizes = np.zeros(len(rows), dtype=np.int64)
    first = int(np.searchsorted(rows, 0))
    for start in range(first, len(rows), chunk):
        texts = table.texts(rows[start : start + chunk])
        sizes[start : start + len(texts)] = [len(title) + len(text) for title, text in texts]
    return sizes[where].reshape(rows_QK.shape)

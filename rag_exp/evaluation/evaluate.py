"""Ask a trained reader every question of a split and write what it said, question by question."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rag_exp.core.errors import ConfigError, DataError, TrainingError
from rag_exp.data.gold import gold_recall
from rag_exp.data.passages import PassageTable
from rag_exp.data.questions import QuestionTable
from rag_exp.evaluation.answering import answers, choices_of, decoding_problems
from rag_exp.evaluation.coverage import answers_found
from rag_exp.evaluation.metrics import exact_match, f1_score, metrics_of
from rag_exp.evaluation.options import EvaluationOptions
from rag_exp.evaluation.predictions import read_predictions, write_predictions
from rag_exp.models.decoding.ranked import Ranked
from rag_exp.models.flops import ReaderSizes, TokenCounts, forward_flops
from rag_exp.models.marginalize import sequence_logp
from rag_exp.models.multihop import ListedPaths
from rag_exp.models.objectives import Objective
from rag_exp.models.packing import Ids, Packer, ReaderBatch
from rag_exp.models.prior import RetrievalPrior
from rag_exp.models.reader import Generator
from rag_exp.retrieval.results import SearchResult
from rag_exp.training.options import Precision, TrainerOptions
from rag_exp.training.progress import Ticker
from rag_exp.training.reading import ABSENT, PassageTokens, passage_characters

LEARNED_TEMPERATURE = (
    "the temperature was learned; the sum over the whole corpus is known at retriever.temperature alone"
)


@dataclass(frozen=True)
class Asked:
    """What is asked and what is read with it.

    Attributes:
        questions: the split.
        passages: the corpus; None for closed book.
        topk: what was retrieved for each question, in the questions' order; None for closed book. A question with
            an empty row is asked closed book.
        corpus_size: M, the passages of the corpus that was searched; None where that says nothing (closed book).
        prior: over what was retrieved.
        paths: in the place of ``topk``, the paths that are read with each question.
    """

    questions: QuestionTable
    passages: PassageTable | None = None
    topk: SearchResult | None = None
    corpus_size: int | None = None
    prior: RetrievalPrior = field(default_factory=RetrievalPrior)
    paths: ListedPaths | None = None


def evaluate(
    generator: Generator,
    objective: Objective,
    packer: Packer,
    asked: Asked,
    options: EvaluationOptions,
    sizes: ReaderSizes | None,
    folder: Path,
    trainer: TrainerOptions,
    precision: Precision = "32",
    reads: type[Reader] | None = None,
) -> dict[str, Any]:
    """Score (and write) an answer to every question; write ``folder/predictions.parquet``.

    Questions are read in batches of equal numbers of passages and similar length. The batch size, device
    and threads change nothing beyond rounding.

    Args:
        generator: the reader; left in evaluation mode on the CPU.
        objective: how K readings become one answer.
        packer: makes prompts for ``generator``.
        asked: questions, passages and what was retrieved.
        options: what to score and whether to write answers.
        sizes: the reader's sizes, for FLOPs; None where nobody knows them.
        folder: where the predictions go.
        trainer: the machine.
        precision: as in training.
        reads: how batches are read; :class:`Reader` unless given.

    Returns:
        ``questions``, ``metrics`` and ``nulls`` (see :mod:`rag_exp.evaluation.metrics`), ``flops`` (of all reading and
        writing; None without ``sizes``), ``tokens`` (None where they were not counted), ``seconds``,
        ``closed_book`` (questions that had no passage to read) and ``notes`` (sentences for the record).

    Raises:
        ConfigError: prompts or answers do not fit the reader.
        DataError: no questions, or ``topk`` is of other ones.
        TrainingError: the reader's probabilities are not finite.
    """
    start = time.perf_counter()
    device = torch.device(trainer.resolved_device())
    threads = torch.get_num_threads()
    try:
        if trainer.threads is not None:
            torch.set_num_threads(trainer.threads)
        generator.to(device).eval()
        reader = (reads or Reader)(generator, objective, packer, asked, options, device, precision)
        rows: list[dict[str, Any]] = [{} for _ in range(len(asked.questions))]
        with Ticker("evaluation", len(rows), trainer.progress, unit="questions") as ticker:
            done = 0
            for items in reader.batches():
                for item, row in zip(items, reader.read(items), strict=True):
                    rows[item] = row
                done += len(items)
                ticker.at(done)
    finally:
        torch.set_num_threads(threads)
        generator.to("cpu")
    scored = [(id, row["nll"]) for id, row in zip(asked.questions.ids, rows, strict=True) if row["nll"] is not None]
    broken = [id for id, nll in scored if not math.isfinite(nll)]
    if broken:
        raise TrainingError(
            f"The reader gives no finite probability to the answers of {len(broken)} of {len(rows)} questions (first "
            f"{broken[0]!r}): its weights are broken. Train it with a lower optim.lr, or use another generator."
        )
    _add_facts(rows, asked)
    path = write_predictions(rows, folder, reader.nulls)
    metrics, nulls = metrics_of(read_predictions(path))
    counts = reader.spent()
    return {
        "questions": len(rows),
        "metrics": metrics,
        "nulls": nulls,
        "flops": None if sizes is None or counts is None else forward_flops(counts, sizes),
        "tokens": None if counts is None else counts.tokens,
        "seconds": time.perf_counter() - start,
        "closed_book": sum(not row["rows"] for row in rows),
        "notes": reader.notes(),
    }


class Reader:
    """Reads batches of questions, each with its passages.

    Attributes:
        counts: tokens read and written here so far.
        nulls: why this way of reading leaves columns of the predictions null, by column.
    """

    def __init__(
        self, generator: Generator, objective: Objective, packer: Packer, asked: Asked, options: EvaluationOptions,
        device: torch.device, precision: Precision,
    ):  # fmt: skip
        self.generator, self.objective, self.packer, self.asked = generator, objective, packer, asked
        self.options, self.device, self.precision = options, device, precision
        self.counts = TokenCounts()
        self.nulls: dict[str, str] = {}
        self._beside: dict[str, list[Any]] = {}  # columns that writing the last batch gave beside its answers
        questions, topk, paths = asked.questions, asked.topk, asked.paths
        Q = len(questions)
        if Q == 0:
            raise DataError("There are no questions to ask in this split.")
        if topk is not None and len(topk) != Q:
            raise DataError(f"The search result has {len(topk)} rows for {Q} questions; build it again.")
        if paths is not None and len(paths) != Q:
            raise DataError(f"There are paths for {len(paths)} questions, not for {Q}; build them again.")
        self._questions = packer.tokens(questions.questions, "question")
        self._targets = packer.tokens(questions.targets, "answer")
        self._rows_QK, self._width_Q = np.empty((Q, 0), np.int64), np.zeros(Q, np.int64)  # width: prompts a question
        if paths is not None:
            self._rows_QK, self._width_Q = paths.rows_QM2.reshape(Q, -1), paths.mask_QM.sum(1)
        elif topk is not None:
            self._rows_QK, self._width_Q = topk.ids_QK, topk.mask_QK.sum(1)
        widest = int(self._width_Q.max())
        problems = packer.room_problems(self._questions, self._targets, objective.in_one_prompt(widest))
        problems += decoding_problems(objective, options, offered=any(questions.choices))
        self._choices = [] if problems else choices_of(questions, options)
        distinct = list(dict.fromkeys(text for choices in self._choices for text in choices))
        self._choice_ids = dict(zip(distinct, packer.tokens(distinct, "answer"), strict=True))
        longest = max((len(ids) + 1 for ids in self._choice_ids.values()), default=0)
        if longest > packer.options.max_answer_tokens:
            problems.append(
                f"evaluation.decode: choices, of which the longest has {longest} tokens with its end token; raise "
                f"prompt.max_answer_tokens ({packer.options.max_answer_tokens}) to that."
            )
        if problems:
            raise ConfigError(problems)
        if topk is not None and topk.log_partition_Q is not None and asked.prior.learns_temperature:
            self.nulls["nll_unnormalized"] = LEARNED_TEMPERATURE
        self._tokens = PassageTokens(packer, asked.passages) if asked.passages is not None else None

    def batches(self) -> Iterator[list[int]]:
        """Questions with as many passages and of similar length together, longest first (memory fails early)."""
        length_Q = np.array([len(q) + len(a) for q, a in zip(self._questions, self._targets, strict=True)])
        if self._rows_QK.size and self.asked.passages is not None:
            characters_QK = passage_characters(self.asked.passages, self._rows_QK)
            together = characters_QK.shape[1] if self.objective.together else self.objective.hops
            length_Q = length_Q + characters_QK.reshape(len(length_Q), -1, together).sum(2).max(1)
        order = np.lexsort((-length_Q, -self._width_Q))
        for items in np.split(order, np.flatnonzero(np.diff(self._width_Q[order])) + 1):
            for start in range(0, len(items), self.options.batch_size):
                yield items[start : start + self.options.batch_size].tolist()

    @torch.no_grad()  # in inference mode autocast would turn the weights to bfloat16 again at every word
    def read(self, items: Sequence[int]) -> list[dict[str, Any]]:
        """The reading's columns of the predictions for ``items``, which have equally many passages."""
        K = int(self._width_Q[items[0]])
        rows_BK = self._rows_QK[items, : K * self.objective.hops]
        prior_BK = torch.zeros(len(items), 1, dtype=torch.float64)
        scores_BK = np.empty((len(items), 0), np.float32)
        if K and self.asked.paths is not None:
            prior_BK = torch.from_numpy(self.asked.paths.logprior_QM[items, :K])
        elif K:
            assert self.asked.topk is not None
            scores_BK = self.asked.topk.scores_QK[items, :K]
            prior_BK = self.asked.prior(torch.from_numpy(scores_BK).double())
        passages = self._tokens(rows_BK) if self._tokens is not None and K else [[] for _ in items]
        if K and self.asked.prior.has_null:
            passages = [[*row, ABSENT] for row in passages]
        batch = self._pack(items, passages, [self._targets[i] for i in items])
        to_write = () if self.options.decode == "none" else items
        logp_BKT, mask_BT, predictions = self._score(batch, prior_BK, to_write)
        nll_B = self._nll(logp_BKT, mask_BT, prior_BK)
        log_posterior_BK = self.objective.log_posterior(logp_BKT, self._prior(prior_BK, logp_BKT), mask_BT)
        columns: dict[str, list[Any]] = {
            "nll": nll_B.tolist(),
            "nll_without_end": self._without_end(logp_BKT, mask_BT, prior_BK),
            "nll_any": self._any(items, passages, prior_BK, nll_B),
            "nll_unnormalized": self._unnormalized(items, logp_BKT, mask_BT, scores_BK),
            "target_tokens": mask_BT.sum(1).tolist(),
            "prediction": predictions,
            "fast_prediction": [None] * len(items),
            "candidates": [None] * len(items),
            "candidate_logp": [None] * len(items),
            "choices": [None] * len(items),
            "choice_logp": [None] * len(items),
            **self._beside,
            "rows": rows_BK.tolist(),
            "scores": scores_BK.tolist(),
            "prior": prior_BK.exp().tolist(),
            "posterior": [None] * len(items),
            "passage_nll": [None] * len(items),
            "truncated": batch.truncated_N.reshape(len(items), -1).sum(1).tolist(),
        }
        if K == 0:
            columns |= {name: [[] for _ in items] for name in ("prior", "posterior", "passage_nll")}
        elif log_posterior_BK is not None:
            columns["posterior"] = log_posterior_BK.exp().tolist()
            columns["passage_nll"] = (-sequence_logp(logp_BKT, mask_BT)).tolist()
        columns |= self._of_null(K, columns)
        columns |= self._of_paths(items, rows_BK, columns)
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def spent(self) -> TokenCounts | None:
        """Tokens read and written so far; None where nobody counted them."""
        return self.counts

    def _of_null(self, K: int, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """What is of the null document goes into columns of its own; those of passages then hold K values."""
        moved = {"null_prior": "prior", "null_posterior": "posterior", "null_nll": "passage_nll"}
        if not (K and self.asked.prior.has_null):
            return dict.fromkeys(moved, [None] * len(columns["prior"]))
        found = {name: [of_all[-1] for of_all in columns[column]] for name, column in moved.items()}
        return found | {column: [of_all[:-1] for of_all in columns[column]] for column in moved.values()}

    def _of_paths(
        self, items: Sequence[int], rows_BK: np.ndarray, columns: dict[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """What is of paths goes into columns of its own; those of single passages then hold the passages alone."""
        none: list[Any] = [None] * len(items)
        moved = {"path_prior": "prior", "path_posterior": "posterior", "path_nll": "passage_nll"}
        paths = self.asked.paths
        if paths is None:
            return dict.fromkeys(("paths", "hop1", "kept_prior", *moved), none)
        found = {name: columns[column] for name, column in moved.items()}
        return {
            **dict.fromkeys(("scores", *moved.values()), none),
            **found,
            "rows": [list(dict.fromkeys(rows)) for rows in rows_BK.tolist()],
            "paths": rows_BK.reshape(len(items), -1, 2).tolist(),
            "hop1": [[row for row in rows if row >= 0] for rows in paths.hop1_QK[items].tolist()],
            "kept_prior": [None if math.isnan(kept) else kept for kept in paths.kept_Q[items].tolist()],
        }

    def notes(self) -> list[str]:
        """What a reader of the record should know of how the questions were read; none where all is as usual."""
        return []

    def _pack(self, items: Sequence[int], passages: Sequence[Any], answers: Sequence[Ids]) -> ReaderBatch:
        questions, reading = [self._questions[i] for i in items], self.objective.reading
        hops = self.objective.hops if passages[0] else 1
        return self.packer.pack(
            questions, passages, answers, joint=reading == "concat", fused=reading == "fid", hops=hops
        )

    def _score(
        self, batch: ReaderBatch, prior_BK: Tensor, to_write: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, list[str | None]]:
        """Log-probabilities of the batch's answers, float64 [B, K, T], their mask [B, T], and answers if written.

        Args:
            to_write: the batch's questions, where answers to them are to be written.
        """
        B = len(prior_BK)
        predictions: list[str | None] = [None] * B
        batch = batch.to(self.device)
        with self._autocast():
            if to_write:
                # The options of prompt and evaluation each bound an answer; the prompt keeps room for its own only.
                most = min(self.options.max_new_tokens, self.packer.options.max_answer_tokens)
                log_prior_BK = self._prior(prior_BK, batch.input_ids_NL.view(B, batch.per_question, -1)).to(self.device)
                choices = [[self._choice_ids[text] for text in self._choices[item]] for item in to_write]
                written = answers(self.generator, batch, log_prior_BK, self.objective, self.options, most, choices)
                predictions = list(self.packer.tokenizer.decode(written.best))
                self._beside = self._written(written, to_write)
                logp_NT, counts = written.target_logp_NT, written.counts
                assert logp_NT is not None
            else:
                logp_NT, counts = self.generator.token_logp(batch), batch.counts
        self.counts += counts
        return logp_NT.cpu().double().view(B, batch.per_question, -1), batch.target_mask_BT.cpu(), predictions

    def _written(self, written: Ranked, items: Sequence[int]) -> dict[str, list[Any]]:
        """What was ranked beside the answers: columns of the predictions."""
        decode, ranked = self.packer.tokenizer.decode, written.candidates
        texts = iter(decode([ids for one in ranked for ids, _ in one]))
        return {
            "fast_prediction": [None] * len(ranked) if written.fast is None else list(decode(written.fast)),
            "candidates": [[next(texts) for _ in one] for one in ranked],
            "candidate_logp": [[score for _, score in one] for one in ranked],
            **(self._chosen_among(written, items) if self.options.decode == "choices" else {}),
        }

    def _chosen_among(self, written: Ranked, items: Sequence[int]) -> dict[str, list[Any]]:
        """The choices of ``items`` in their own order, and log p of each; of equal tokens, the same."""
        found: dict[str, list[Any]] = {"choices": [self._choices[item] for item in items], "choice_logp": []}
        for ranked, choices in zip(written.candidates, found["choices"], strict=True):
            logp = {tuple(ids): value for ids, value in ranked}
            found["choice_logp"].append([logp[tuple(self._choice_ids[text])] for text in choices])
        return found

    def _nll(self, logp_BKT: Tensor, mask_BT: Tensor, prior_BK: Tensor) -> Tensor:
        return self.objective.nll(logp_BKT, self._prior(prior_BK, logp_BKT), mask_BT)

    def _without_end(self, logp_BKT: Tensor, mask_BT: Tensor, prior_BK: Tensor) -> list[float | None]:
        """As the NLL, the end token left out; None for an answer that has no other token."""
        answer_BT = mask_BT & nn.functional.pad(mask_BT[:, 1:], (0, 1))  # all but each row's last target
        has_one_B = answer_BT.any(1)
        nll_B = self._nll(logp_BKT, torch.where(has_one_B[:, None], answer_BT, mask_BT), prior_BK)
        return [x if there else None for x, there in zip(nll_B.tolist(), has_one_B.tolist(), strict=True)]

    def _unnormalized(
        self, items: Sequence[int], logp_BKT: Tensor, mask_BT: Tensor, scores_BK: np.ndarray
    ) -> list[float | None]:
        """As the NLL, the prior taken over the whole corpus: log p(z|x) = score / temperature - log Z.

        What the passages that were not read would add is left out, so it is an upper bound of the NLL over all of
        them, comparable across K. None where log Z is not known or the passages are not read one by one.
        """
        topk = self.asked.topk
        known = topk is not None and topk.log_partition_Q is not None and not self.asked.prior.learns_temperature
        if not known or not scores_BK.shape[1] or self.objective.reading != "each":
            return [None] * len(items)
        assert topk is not None
        assert topk.log_partition_Q is not None
        log_partition_B = torch.from_numpy(topk.log_partition_Q[list(items)])
        whole_BK = self.asked.prior.over_corpus(torch.from_numpy(scores_BK).double(), log_partition_B)
        return self.objective.nll(logp_BKT, whole_BK, mask_BT).tolist()

    @staticmethod
    def _prior(prior_BK: Tensor, like_BKX: Tensor) -> Tensor:
        """The prior over the readings of a question: over passages, or the one reading of them all."""
        return prior_BK if prior_BK.shape[1] == like_BKX.shape[1] else prior_BK.new_zeros(like_BKX.shape[:2])

    def _any(self, items: Sequence[int], passages: Any, prior_BK: Tensor, nll_B: Tensor) -> list[float]:
        """-log of the summed probability of each question's distinct answers.

        Answers too long for the prompt's room are left out of the sum.
        """
        logp: list[list[float]] = [[-x] for x in nll_B.tolist()]
        others: list[tuple[int, Ids]] = []
        for b, item in enumerate(items):
            texts = list(dict.fromkeys(self.asked.questions.answers[item]))
            ids = {tuple(self._targets[item])}
            for answer in self.packer.tokens(texts[1:], "answer") if len(texts) > 1 else []:
                fits = len(answer) < self.packer.options.max_answer_tokens
                if fits and tuple(answer) not in ids and len(ids) < self.options.max_answers:
                    ids.add(tuple(answer))
                    others.append((b, answer))
        others.sort(key=lambda other: len(other[1]))
        for start in range(0, len(others), self.options.batch_size):
            part = others[start : start + self.options.batch_size]
            which = [b for b, _ in part]
            batch = self._pack([items[b] for b in which], [passages[b] for b in which], [a for _, a in part])
            logp_BKT, mask_BT, _ = self._score(batch, prior_BK[which])
            for b, x in zip(which, self._nll(logp_BKT, mask_BT, prior_BK[which]).tolist(), strict=True):
                logp[b].append(-x)
        return [-float(np.logaddexp.reduce(x)) for x in logp]

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()


def _add_facts(rows: list[dict[str, Any]], asked: Asked) -> None:
    """Add what is known without the reader: the question itself, its gold, what retrieval found, EM and F1."""
    table = asked.questions
    found = answers_found([row["rows"] for row in rows], table.answers, asked.passages)
    for q, row in enumerate(rows):
        answers, gold, gold_of, hops = table.answers[q], table.gold[q], table.gold_of[q], int(table.hops[q])
        prediction, reads = row["prediction"], bool(row["rows"])
        wanted = set(gold)
        rank = next((r for r, passage in enumerate(row["rows"], start=1) if passage in wanted), None)
        inside = None
        if gold and asked.corpus_size is not None:
            held = [g for g in gold if g < asked.corpus_size]
            inside = gold_recall(held, gold, gold_of, hops) == 1.0
        row |= {
            "id": table.ids[q],
            "question": table.questions[q],
            "template": table.templates[q],
            "hops": hops,
            "answers": answers,
            "target": answers[0],
            "answer_bytes": len(answers[0].encode()),
            "em": None if prediction is None else exact_match(prediction, answers),
            "f1": None if prediction is None else f1_score(prediction, answers),
            "gold": gold,
            "gold_of": gold_of,
            "gold_rank": rank,
            "gold_in_corpus": inside,
            "gold_found": rank is not None if gold and reads else None,
            "answer_found": found[q] if reads else None,
            "entropy": table.entropies[q],
            "entropy_given_gold": table.entropies_given_gold[q],
        }

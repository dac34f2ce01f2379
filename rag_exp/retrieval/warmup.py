"""Contrastive warm-up of an encoder on questions with gold passages, with hard negatives and a calibrated scale.

    loss = -log softmax_j(question_i . passage_j) [j = gold of i],  j over all gold and hard passages of the batch

(Karpukhin et al. 2020, equation 2). A passage that is gold for a question is never its negative. Afterwards one
number, the scale of question vectors, is set on questions whose documents took no part in training, so
that the softmax of scores over passages is as sure as it is right.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rag_exp.core.errors import DataError, TrainingError
from rag_exp.core.rng import derive, numpy_rng
from rag_exp.retrieval.calibrate import best_factor, gold_nll, gold_recall
from rag_exp.retrieval.encoders import PassageTexts, passage_text
from rag_exp.retrieval.exact import exact_topk
from rag_exp.retrieval.negatives import from_document, from_search, without_answers
from rag_exp.retrieval.options import RetrieverWarmup
from rag_exp.retrieval.pool import PassagePool
from rag_exp.retrieval.results import NOTHING

if TYPE_CHECKING:
    import numpy as np

    from rag_exp.retrieval.encoder import Encoder

RECALL_RANKS = (1, 4, 20)
_HELD_OUT_DOCUMENTS = 0.1
_LEAST_HELD_OUT = 32  # fewer questions say too little to set a scale by
_CLIP = 1.0
_RAMP = 0.1  # share of the steps in which the learning rate rises


def warm_up(
    encoder: Encoder,
    questions: Sequence[str],
    gold: Sequence[Sequence[int]],
    passages: PassageTexts,
    options: RetrieverWarmup,
    seed: int,
    answers: Sequence[Sequence[str]] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Prepare ``encoder`` for a corpus and train it in place.

    With ``steps=0`` what is counted (token rarity) and the scale are still set; no weight learns by gradient.

    Args:
        encoder: from ``EncoderOptions.create``.
        questions: training questions.
        gold: gold rows of each; questions without any are left out.
        passages: the full corpus.
        options: resolved (no "auto").
        seed: of every draw; the same seed gives the same weights on the same device and thread count.
        answers: accepted answers, needed for ``drop_answer_matches``.
        progress: called with the step (from 1) and its loss.

    Returns:
        Plain JSON: ``losses`` (one a step); ``questions``, ``held_out`` and ``pool`` (counts); ``scale_before`` and
        ``scale``; ``tokens`` and ``flops`` by stage (a training pass is three forward passes); ``seconds`` by stage;
        ``held_out_recall`` (rank -> share) and ``held_out_nll`` over the pool (null with ``held_out_reason``).

    Raises:
        DataError: steps are asked for and fewer than two questions have a gold passage.
        TrainingError: the loss is not finite.
    """
    import torch

    if "auto" in (options.steps, options.lr, options.pool):
        raise TypeError("options hold 'auto'; call options.resolved(encoder_options) first")
    usable = [i for i, rows in enumerate(gold) if len(rows)]
    if options.steps and len(usable) < 2:
        raise DataError(
            f"retriever.warmup.steps={options.steps}: training needs questions with gold passages, "
            f"{len(usable)} of {len(gold)} have one. Set retriever.warmup.steps=0."
        )
    clock = _Clock()
    training, held_out = _split_by_document(usable, gold, passages, options.held_out, seed)
    used = _order(training, options.steps * options.batch_size, seed)
    stats: dict[str, Any] = {
        "steps": options.steps,
        "questions": len(training),
        "held_out": len(held_out),
        "losses": [],
        "scale_before": encoder.scale,
    }
    needed = {row for i in (*used, *held_out) for row in gold[i]}
    pool = PassagePool.draw(encoder, passages, needed, options.pool, seed)
    encoder.prepare(pool.features)
    clock.mark("tokenize")
    job = _Warmup(encoder, questions, gold, passages, pool, options, seed)
    if options.steps:
        mined = job.mine(used, answers)
        stats["mined"] = int((mined >= 0).sum())
        clock.mark("mine")
        device = encoder.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive(seed, "retriever warm-up"))  # dropout
            stats["losses"] = job.train(used, mined, progress)
        clock.mark("train")
    stats |= job.calibrate(held_out)
    clock.mark("calibrate")
    return {
        **stats,
        "pool": len(pool),
        "scale": encoder.scale,
        "tokens": job.tokens,
        "flops": job.flops,
        "seconds": clock.seconds,
    }


def _split_by_document(
    usable: list[int], gold: Sequence[Sequence[int]], passages: PassageTexts, wanted: int, seed: int
) -> tuple[list[int], list[int]]:
    """Questions to train on and to hold out. A document's questions are on one side, so that held-out names are new."""
    import numpy as np

    if not usable:
        return [], []
    documents = np.searchsorted(passages.doc_ends, [gold[i][0] for i in usable], side="right")
    names = np.unique(documents)
    kept_out = numpy_rng(seed, "held-out documents").permutation(names)[: int(len(names) * _HELD_OUT_DOCUMENTS)]
    beyond = np.isin(documents, kept_out)
    out = [i for i, held in zip(usable, beyond, strict=True) if held]
    if min(wanted, len(out)) < _LEAST_HELD_OUT:
        return usable, []
    chosen = np.sort(numpy_rng(seed, "held-out questions").permutation(len(out))[:wanted])
    return [i for i, held in zip(usable, beyond, strict=True) if not held], [out[c] for c in chosen]


def _order(training: list[int], count: int, seed: int) -> list[int]:
    """The questions that the steps will see, in their order; each epoch is a new permutation."""
    order: list[int] = []
    epoch = 0
    while len(order) < count:
        turn = numpy_rng(seed, "retriever warm-up order", epoch).permutation(len(training))
        order += [training[i] for i in turn]
        epoch += 1
    return order[:count]


@dataclass
class _Warmup:
    encoder: Encoder
    questions: Sequence[str]
    gold: Sequence[Sequence[int]]
    passages: PassageTexts
    pool: PassagePool
    options: RetrieverWarmup
    seed: int
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("mine", "train", "calibrate"), 0))
    flops: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("mine", "train", "calibrate"), 0))

    def mine(self, used: list[int], answers: Sequence[Sequence[str]] | None) -> np.ndarray:
        """Hard negatives: corpus rows [used question, candidate], -1 for none; a line for each place in ``used``."""
        import numpy as np

        options = self.options
        if not options.hard_negatives or not options.negatives_from:
            return np.empty((len(used), 0), np.int64)
        asked = sorted(set(used))
        own = [self.gold[i] for i in asked]
        columns = [self._mined_by(source, [self.questions[i] for i in asked], own) for source in options.negatives_from]
        mined = np.concatenate(columns, axis=1)
        if options.drop_answer_matches:
            if answers is None:
                raise DataError("retriever.warmup.drop_answer_matches: these questions come without answers.")
            mined = without_answers(mined, [answers[i] for i in asked], self.passages)
        place = {question: n for n, question in enumerate(asked)}
        return mined[[place[i] for i in used]]

    def _mined_by(self, source: str, texts: list[str], own: list[Sequence[int]]) -> np.ndarray:
        count = self.options.mined
        if source == "document":
            return from_document(own, self.passages.doc_ends, count, self.seed)
        wide = count + max(len(rows) for rows in own)
        if source == "bm25":
            from rag_exp.retrieval.lexical import BM25

            pairs = self.passages.texts(self.pool.rows)
            index = BM25().create((passage_text(*pair) for pair in pairs), self.seed)
            return from_search(index.search(texts, wide), self.pool.rows, own, count)
        queries, vectors = self._vectors("mine", texts)
        device = None if self.encoder.device.type == "cpu" else str(self.encoder.device)
        return from_search(exact_topk(queries, [vectors], wide, device), self.pool.rows, own, count)

    def _vectors(self, stage: str, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of ``texts`` and of the pool as the encoder is now; the comparison of all with all is counted too."""
        queries, tokens = self.encoder.encode_counted(texts, "question")
        self._count(stage, tokens, len(texts), 1)
        self._count(stage, self.pool.tokens, len(self.pool), 1)
        self.flops[stage] += 2 * len(texts) * len(self.pool) * self.encoder.dims
        return queries, self.pool.vectors(self.encoder)

    def _count(self, stage: str, tokens: int, texts: int, passes: int) -> None:
        self.tokens[stage] += tokens
        self.flops[stage] += passes * self.encoder.flops(tokens, texts)

    def train(self, used: list[int], mined: np.ndarray, progress: Callable[[int, float], None] | None) -> list[float]:
        """The loss of each step; the encoder is trained in place."""
        import torch

        steps, size = self.options.steps, self.options.batch_size
        optimizer = torch.optim.Adam(self.encoder.parameter_groups(self.options.lr))
        ramp = max(1, round(_RAMP * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda t: min((t + 1) / ramp, (steps - t) / max(1, steps - ramp), 1.0)
        )
        losses: list[float] = []
        was_training = self.encoder.training
        self.encoder.train()
        for step in range(steps):
            places = slice(step * size, (step + 1) * size)
            loss = self._loss(step, used[places], mined[places])
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"The retriever warm-up's loss is {loss.item()} at step {step + 1} of {steps}. "
                    f"Lower retriever.warmup.lr ({self.options.lr})."
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), _CLIP)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if progress is not None:
                progress(step + 1, losses[-1])
        self.encoder.train(was_training)
        return losses

    def _loss(self, step: int, asked: list[int], mined_BC: np.ndarray) -> Any:
        import numpy as np
        import torch

        draw = numpy_rng(self.seed, "retriever warm-up step", step)
        own = [self.gold[i] for i in asked]
        positives = np.array([rows[draw.integers(len(rows))] for rows in own], dtype=np.int64)
        hard = [self._draw_hard(mined, rows, draw) for mined, rows in zip(mined_BC, own, strict=True)]
        # One column a passage: a second copy of a target would count as a wrong answer.
        rows_C = np.unique(np.concatenate([positives, *hard]))
        target_B = np.searchsorted(rows_C, positives)
        questions = self.encoder.features([self.questions[i] for i in asked], "question")
        passages = self.encoder.features([passage_text(*pair) for pair in self.passages.texts(rows_C)], "passage")
        scores_BC = self.encoder(questions, "question") @ self.encoder(passages, "passage").T
        also_gold_BC = np.stack([np.isin(rows_C, rows) for rows in own])
        also_gold_BC[np.arange(len(own)), target_B] = False
        self._count("train", self.encoder.tokens(questions), len(own), 3)
        self._count("train", self.encoder.tokens(passages), len(rows_C), 3)
        self.flops["train"] += 6 * len(own) * len(rows_C) * self.encoder.dims
        hidden_BC = torch.from_numpy(also_gold_BC).to(scores_BC.device)
        return torch.nn.functional.cross_entropy(
            scores_BC.masked_fill(hidden_BC, -math.inf), torch.from_numpy(target_B).to(scores_BC.device)
        )

    def _draw_hard(self, mined: np.ndarray, own: Sequence[int], draw: np.random.Generator) -> np.ndarray:
        """Some of a question's mined rows; any passages of the pool where nothing was mined. Never its gold."""
        import numpy as np

        count = self.options.hard_negatives
        candidates = np.unique(mined[mined != NOTHING])
        if not len(candidates) and count:
            drawn = draw.choice(self.pool.rows, size=min(len(self.pool), count + len(own)), replace=False)
            candidates = drawn[~np.isin(drawn, own)]
        return draw.choice(candidates, size=min(count, len(candidates)), replace=False)

    def calibrate(self, held_out: list[int]) -> dict[str, Any]:
        """Set the scale by the held-out questions, and say how their gold passages rank in the pool."""
        import torch

        if not held_out:
            reason = f"fewer than {_LEAST_HELD_OUT} questions could be held out by document; the scale stays as trained"
            return {"held_out_recall": None, "held_out_nll": None, "held_out_reason": reason}
        queries, vectors = self._vectors("calibrate", [self.questions[i] for i in held_out])
        scores_QP = torch.from_numpy(queries @ vectors.T)
        gold_QP = torch.zeros(scores_QP.shape, dtype=torch.bool)
        for q, places in enumerate(self.pool.positions([self.gold[i] for i in held_out])):
            gold_QP[q, torch.from_numpy(places)] = True
        factor = best_factor(scores_QP, gold_QP)
        with torch.no_grad():
            self.encoder.log_scale.add_(math.log(factor))
        return {
            "held_out_recall": gold_recall(scores_QP, gold_QP, RECALL_RANKS),
            "held_out_nll": gold_nll(scores_QP, gold_QP, factor),
            "held_out_nll_before": gold_nll(scores_QP, gold_QP),
        }


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now

"""The Lightning module: one batch of questions and passages to one loss."""

from __future__ import annotations

import math
import random
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rag_exp.core.errors import TrainingError
from rag_exp.core.rng import derive
from rag_exp.models.evidence import attended, each_apart, undisturbed, without_one
from rag_exp.models.flops import TokenCounts
from rag_exp.models.marginalize import sequence_logp
from rag_exp.models.multihop import best_paths, rows_of
from rag_exp.models.objective import Objective
from rag_exp.models.objectives import Chain
from rag_exp.models.prior import RetrievalPrior
from rag_exp.models.reader import Generator
from rag_exp.retrieval.hop2 import SecondHop
from rag_exp.retrieval.live import LiveRetriever
from rag_exp.training.meter import Meter
from rag_exp.training.options import OptimOptions
from rag_exp.training.reading import Reading, StageData
from rag_exp.training.schedule import build_optimizer, lr_at, set_rates

FLUSH_EVERY = 20  # steps whose losses may wait on an accelerator before they are looked at


class RagModule(pl.LightningModule):
    """Trains a generator, and where asked the retriever before it, on one stage's objective.

    All that varies from step to step (order, learning rate, dropout) is a pure function of the step, so
    the module can begin at any step given the weights and moments of that step.

    Args:
        generator: the reader; trained in place.
        objective: how the reader reads, and what of that becomes the loss.
        data: the stage's questions, for a live retriever to search and pack.
        optim: optimiser options.
        peak_lr: peak learning rate of this stage.
        meter: the stage's counters, their length and how far they are.
        seed: seed of the stage's steps.
        prior: over the passages retrieved; trained in place where it learns. None: a plain softmax.
        live: a retriever that trains along, searching with the weights of the moment; None where passages are given.
        retriever_lr: its peak learning rate.
    """

    def __init__(
        self,
        generator: Generator,
        objective: Objective,
        data: StageData,
        optim: OptimOptions,
        peak_lr: float,
        meter: Meter,
        seed: int,
        prior: RetrievalPrior | None = None,
        live: LiveRetriever | None = None,
        retriever_lr: float = 0.0,
    ):
        super().__init__()
        self.generator, self.live, self.prior = generator, live, prior or RetrievalPrior()
        self.objective, self.stage, self.optim, self.meter = objective, data, optim, meter
        self.peak_lr, self.retriever_lr, self.seed = peak_lr, retriever_lr, seed
        self._pending: list[tuple[int, Tensor]] = []
        self._norms: list[tuple[int, Tensor]] = []

    @property
    def rate(self) -> float:
        """The learning rate of the step that comes next."""
        return lr_at(min(self.meter.done, self.meter.steps - 1), self.meter.steps, self.optim, self.peak_lr)

    def training_step(self, reading: Reading, batch_idx: int) -> Tensor:
        self._reseed(reading.step)
        if reading.reader is None:
            reading = self._search(reading)
        loss = self.loss(reading)
        self._watch(reading.step, loss)
        self._count(reading)
        return loss

    def loss(self, reading: Reading) -> Tensor:
        """What a step minimises: nats per answer and the retriever's term, each averaged over questions.

        An objective that does not train its reader leaves the first out.
        """
        assert reading.reader is not None
        objective, reader = self.objective, reading.reader
        prior_BK = reading.logprior_BM
        if reading.scores_BK is not None:
            prior_BK = self.prior(reading.scores_BK, reading.mask_BK)
        with nullcontext() if objective.trains_reader else undisturbed(self.generator):
            logp_NT = self.generator.token_logp(reader)
        logp_BKT = logp_NT.view(-1, reader.per_question, logp_NT.shape[-1])
        terms = []
        if objective.trains_reader:
            one_each = prior_BK is not None and objective.reading == "each"
            over_BK = prior_BK if one_each else logp_BKT.new_zeros(logp_BKT.shape[:2])
            terms.append(objective.nll(logp_BKT, over_BK, reader.target_mask_BT).mean())
        if objective.evidence != "none" and prior_BK is not None:
            term_B = objective.retriever_loss(self._evidence(reading, logp_BKT), prior_BK)
            terms.append(objective.retriever_weight * term_B.mean())
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]

    def _evidence(self, reading: Reading, logp_BKT: Tensor) -> Tensor:
        """What the reader says of each passage, shape [B, K], without gradients to it."""
        assert reading.reader is not None
        if self.objective.evidence == "own":
            return sequence_logp(logp_BKT.detach(), reading.reader.target_mask_BT)
        if self.objective.attends:
            return attended(self.generator, reading.reader, self.objective.evidence == "attention_norms")
        assert reading.evidence is not None, "the stage's data were made for another objective"
        if self.objective.evidence == "without_one":
            assert reading.mask_BK is not None
            return without_one(self.generator, reading.evidence, reading.mask_BK.shape[1])
        return each_apart(self.generator, reading.evidence)

    def _search(self, reading: Reading) -> Reading:
        """The same questions with the passages, or the paths, that the live retriever chooses now."""
        assert self.live is not None
        if self.stage.hop2 is not None:
            return self._search_paths(reading, self.stage.hop2)
        rows_BK, scores_BK = self.live.search(self.stage.wording(reading.items), self.stage.k)
        read = self.stage.read(reading.step, reading.items, rows_BK).to(self.device)
        return replace(read, scores_BK=scores_BK)

    def _search_paths(self, reading: Reading, hop2: SecondHop) -> Reading:
        assert self.live is not None
        assert isinstance(self.objective, Chain)
        found, *scores = self.live.search_paths(self.stage.wording(reading.items), self.stage.k, hop2)
        prior, renormalize = self.objective.prior, self.objective.renormalize
        places_BM2, logprior_BM = best_paths(*scores, hop2.paths, prior, self.prior.temperature, renormalize)
        rows_BM2 = rows_of(places_BM2.cpu().numpy(), found.hop1.ids_QK, found.ids_QKJ)
        read = self.stage.read(reading.step, reading.items, rows_BM2.reshape(len(rows_BM2), -1)).to(self.device)
        return replace(read, logprior_BM=logprior_BM)

    def _count(self, reading: Reading) -> None:
        """Note what the step read: with gradients, and beside it what was read without."""
        assert reading.reader is not None
        read, scored = reading.reader.counts, TokenCounts()
        if not self.objective.trains_reader:
            read, scored = scored, read
        if reading.evidence is not None:
            scored += reading.evidence.counts
        if self.objective.attends and reading.mask_BK is not None:
            scored += replace(reading.reader.counts, target_tokens=0)  # attention needs no vocabulary projection
        self.meter.read(read, reading.passages, reading.reader.truncated_passages, scored)

    def _reseed(self, step: int) -> None:
        """Make this step's dropout a function of seed and step alone, and set its learning rate."""
        seed = derive(self.seed, "step", step)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        set_rates(self.optimizers(use_pl_optimizer=False), step, self.meter.steps, self.optim)

    def configure_optimizers(self) -> Optimizer:
        others: list[dict[str, Any]] = self.prior.parameter_groups()
        if self.live is not None:
            for encoder in (self.live.question_encoder, self.live.passage_encoder):
                others += encoder.parameter_groups(self.retriever_lr) if encoder is not None else []
        reader = self.generator.parameters() if self.objective.trains_reader else ()
        return build_optimizer(reader, self.optim, self.peak_lr, others)

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.optim.grad_clip:
            nn.utils.clip_grads_with_norm_(parameters, self.optim.grad_clip, norm)
        self._norms.append((self._pending[-1][0] if self._pending else self.meter.done, norm.detach()))
        if self.device.type == "cpu" or len(self._pending) >= FLUSH_EVERY:
            self.look()

    def _watch(self, step: int, loss: Tensor) -> None:
        self._pending.append((step, loss.detach()))
        if self.device.type == "cpu" and not bool(torch.isfinite(loss)):
            self.look()

    def look(self) -> None:
        """Bring the losses and gradient norms of the last steps to the CPU and stop if one is not finite.

        On a CPU that is done in every step, before the weights are changed; on an accelerator, where each
        look waits for the device, every few steps and before every checkpoint.

        Raises:
            TrainingError: naming the first step that went wrong.
        """
        losses = _values(self._pending)
        norms = _values(self._norms)
        self._pending.clear()
        self._norms.clear()
        wrong = [(step, "loss", x) for step, x in losses if not math.isfinite(x)]
        wrong += [(step, "gradient", x) for step, x in norms if not math.isfinite(x)]
        if wrong:
            step, what, value = min(wrong, key=lambda w: w[0])
            raise TrainingError(
                f"The {what} became {value} at step {step + 1} of {self.meter.steps}. The last good checkpoint stays. "
                "Lower optim.lr (or training.lr, training.warmup.lr), lengthen optim.rise, or set optim.grad_clip=1."
            )
        for _, loss in losses:
            self.meter.step(loss)

    def transfer_batch_to_device(self, batch: Reading, device: torch.device, dataloader_idx: int) -> Reading:
        return batch if device.type == "cpu" else batch.to(device, non_blocking=True)


def _values(pairs: list[tuple[int, Tensor]]) -> list[tuple[int, float]]:
    if not pairs:
        return []
    values = torch.stack([x.float() for _, x in pairs]).tolist() if len(pairs) > 1 else [float(pairs[0][1])]
    return [(step, value) for (step, _), value in zip(pairs, values, strict=True)]

"""One stage of training as one Lightning fit that can be killed at any moment and gone on with."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment

from rag_exp.core.rng import derive
from rag_exp.models.flops import ReaderSizes
from rag_exp.models.objectives import Objective
from rag_exp.models.prior import RetrievalPrior
from rag_exp.models.reader import Generator
from rag_exp.retrieval.live import LiveRetriever
from rag_exp.training.callbacks import Keeper, Refresher, Reporter
from rag_exp.training.checkpoint import extra_of, load_progress, restore_model, restore_optimizer
from rag_exp.training.datamodule import StageDataModule
from rag_exp.training.loggers import Mirror
from rag_exp.training.meter import Meter
from rag_exp.training.module import RagModule
from rag_exp.training.options import OptimOptions, Precision, TrainerOptions
from rag_exp.training.order import BatchOrder
from rag_exp.training.progress import Ticker
from rag_exp.training.reading import StageData
from rag_exp.training.threads import torch_threads

LIGHTNING_PRECISION = {"32": "32-true", "bf16": "bf16-mixed"}


@dataclass(frozen=True)
class Stage:
    """What a stage is, apart from what it trains and reads.

    Attributes:
        name: its name in seeds, files and logs ("reader_warmup", "marginal").
        steps: its length.
        batch_size: questions a step.
        peak_lr: peak learning rate.
        seed: the run's seed; the stage derives its own streams from it.
        bucket: see :class:`BatchOrder`.
        precision: "32" or "bf16".
        refresh_every: steps between refreshes of a live retriever's passages; None where they do not train.
        retriever_lr: peak learning rate of a live retriever.
    """

    name: str
    steps: int
    batch_size: int
    peak_lr: float
    seed: int
    bucket: int = 1
    precision: Precision = "32"
    refresh_every: int | None = None
    retriever_lr: float = 0.0


def fit_stage(
    stage: Stage,
    generator: Generator,
    objective: Objective,
    data: StageData,
    optim: OptimOptions,
    sizes: ReaderSizes | None,
    trainer: TrainerOptions,
    partial: Path | None = None,
    live: LiveRetriever | None = None,
    mirror: Mirror | None = None,
    prior: RetrievalPrior | None = None,
) -> dict[str, Any]:
    """Train ``generator`` (``live`` and ``prior``, where given) in place for one stage.

    Args:
        stage: its facts.
        generator: the reader, in any state; what it has learned before is where the stage starts.
        objective: the loss.
        data: what is read.
        optim: optimiser and schedule.
        sizes: the reader's sizes, for FLOPs; None where nobody knows them.
        trainer: the machine.
        partial: folder for progress, found again after a kill; None keeps none.
        live: a retriever that trains along.
        mirror: where curves are logged.
        prior: over retrieved passages, trained in place where it learns; None: a plain softmax.

    Returns:
        ``steps``, ``tokens``, ``target_tokens``, ``rows``, ``flops``, ``seconds``, ``passages``, ``truncated`` (share),
        ``loss`` (thinned curve of [steps done, mean loss]), ``final_loss``, ``questions``, ``left_out`` (questions
        without a passage to read) and ``resumed_at`` (steps that another process had done). With ``live``,
        ``retriever_flops`` are its searches, gradients and refreshes, and part of ``flops``.

    Raises:
        TrainingError: the loss or its gradient is not finite; the last good progress stays in ``partial``.
    """
    file = partial / f"{stage.name}.safetensors" if partial is not None else None
    known = load_progress(file) if file is not None else None
    meter = Meter.of(known.facts["meter"]) if known is not None else Meter(stage.steps, stage.bucket)
    seed = derive(stage.seed, stage.name)
    module = RagModule(generator, objective, data, optim, stage.peak_lr, meter, seed, prior, live, stage.retriever_lr)
    if known is not None:
        restore_model(module, known)
        if live is not None:
            live.load_state(extra_of(known))
    if meter.done < stage.steps:
        device = torch.device(trainer.resolved_device())
        order = BatchOrder(data.lengths, stage.batch_size, seed, stage.bucket)
        feed = StageDataModule(data, order, meter.done, stage.steps, trainer.num_workers, device.type == "cuda")
        # With its size, so that the lines of parallel runs can be told apart.
        size = "unknown" if sizes is None else f"{sizes.body + sizes.encoder_body:,}"
        label = f"{stage.name.replace('_', ' ')} (N={size})"
        with (
            torch_threads(trainer.threads),
            _quiet(),
            Ticker(label, stage.steps, trainer.progress, start=meter.done) as ticker,
        ):
            callbacks: list[pl.Callback] = [
                _Resume(known),
                *([Refresher(stage.refresh_every)] if stage.refresh_every is not None else []),
                Reporter(stage.name, ticker, mirror or Mirror(None), trainer.log_every),
                Keeper(file, trainer.checkpoint_every),
            ]
            generator.keep(trainer.memory())
            module.train()
            _fit(_trainer(device, stage, stage.steps - meter.done, callbacks), module, feed)
    stats = meter.stats(sizes)
    if live is not None:
        whole = None if stats["flops"] is None else stats["flops"] + live.flops
        stats |= {"retriever_flops": float(live.flops), "flops": whole}
    return {
        **stats,
        "questions": len(data),
        "left_out": data.left_out,
        "resumed_at": known.step if known is not None else 0,
    }


class _Resume(pl.Callback):
    """Puts the optimiser's moments back, once Lightning has made the optimiser."""

    def __init__(self, known: Any):
        self.known = known

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.known is not None:
            restore_optimizer(module, trainer.optimizers[0], self.known)


def _trainer(device: torch.device, stage: Stage, steps: int, callbacks: list[pl.Callback]) -> pl.Trainer:
    """A Lightning trainer without what we do ourselves (its checkpoints keep neither place in the data nor seeds)."""
    return pl.Trainer(
        accelerator={"cpu": "cpu", "cuda": "gpu", "mps": "mps"}[device.type],
        devices=[device.index] if device.type == "cuda" else 1,
        precision=LIGHTNING_PRECISION[stage.precision],  # type: ignore[arg-type]
        max_steps=steps,
        max_epochs=-1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        # A cluster's own environment would have Lightning count its tasks; a run uses one device wherever it is.
        plugins=[LightningEnvironment()],
    )


def _fit(trainer: pl.Trainer, module: RagModule, feed: StageDataModule) -> None:
    try:
        trainer.fit(module, datamodule=feed)
    except SystemExit as e:
        if isinstance(e.__context__, KeyboardInterrupt):  # Lightning makes an exit of it; our caller knows better
            raise KeyboardInterrupt from None
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Lightning says about hardware, workers and its own deprecations; its errors still come through."""
    names = ("pytorch_lightning", "lightning_fabric", "lightning", "lightning.pytorch", "lightning.fabric")
    loggers = [logging.getLogger(name) for name in (*names, *(f"{n}.utilities.rank_zero" for n in names))]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for module in (r"pytorch_lightning", r"lightning_fabric", r"torch\.utils\.data"):
                warnings.filterwarnings("ignore", module=module)
            warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

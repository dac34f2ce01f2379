"""What happens between the steps of a stage: checkpoints, index refresh, curves and progress."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from rag_exp.training.checkpoint import save_progress
from rag_exp.training.loggers import Mirror
from rag_exp.training.module import RagModule
from rag_exp.training.progress import Ticker
from rag_exp.training.reading import Reading


class Keeper(pl.Callback):
    """Saves a stage's progress every ``every`` steps, and when the process is asked to end (SIGTERM).

    Before it saves it looks at every loss since the last look, so that a file on disk is always good.
    """

    def __init__(self, path: Path | None, every: int):
        self.path, self.every = path, every
        self._clock = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._clock = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(batch, Reading)
        done = batch.step + 1
        if done % self.every == 0:
            self.save(trainer, module, done)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, RagModule)
        module.look()
        self._time(module)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        assert isinstance(module, RagModule)
        if isinstance(exception, SIGTERMException):  # raised between steps, never within one
            module.look()
            self.save(trainer, module, module.meter.done)

    def save(self, trainer: pl.Trainer, module: pl.LightningModule, done: int) -> None:
        """Write the progress after ``done`` steps."""
        assert isinstance(module, RagModule)
        if self.path is None:
            return
        module.look()
        assert module.meter.done == done
        self._time(module)
        live = module.live.state() if module.live is not None else {}
        save_progress(self.path, done, module, trainer.optimizers[0], live, {"meter": module.meter.facts()})

    def _time(self, module: RagModule) -> None:
        now = time.perf_counter()
        module.meter.seconds += now - self._clock
        self._clock = now


class Refresher(pl.Callback):
    """Embeds the passages anew with the passage encoder of the moment, before every ``every``-th step."""

    def __init__(self, every: int):
        self.every = every

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(batch, Reading)
        assert isinstance(module, RagModule)
        if batch.step > 0 and batch.step % self.every == 0:
            assert module.live is not None
            module.live.refresh()


class Reporter(pl.Callback):
    """Progress on the terminal and curves in the logger. Neither looks at the loss more often than it shows it."""

    def __init__(self, name: str, ticker: Ticker, mirror: Mirror, log_every: int):
        self.name, self.ticker, self.mirror, self.log_every = name, ticker, mirror, log_every
        self._clock, self._tokens = time.perf_counter(), 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, RagModule)
        self._clock, self._tokens = time.perf_counter(), module.meter.counts.tokens

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(batch, Reading)
        assert isinstance(module, RagModule)
        done = batch.step + 1
        if self.ticker.due():
            recent = module.meter.recent
            self.ticker.at(done, f"loss {recent:.3f}" if recent is not None else "")
        if self.mirror.there and done % self.log_every == 0:
            module.look()
            now, tokens = time.perf_counter(), module.meter.counts.tokens
            values = {
                f"{self.name}/loss": module.meter.recent,
                f"{self.name}/lr": module.rate,
                f"{self.name}/tokens_per_second": (tokens - self._tokens) / max(now - self._clock, 1e-9),
                f"{self.name}/tokens": tokens,
            }
            if module.prior.parameter_groups():
                values |= {f"{self.name}/{name}": value for name, value in module.prior.values().items()}
            self._clock, self._tokens = now, tokens
            self.mirror.log({name: float(v) for name, v in values.items() if v is not None}, done)

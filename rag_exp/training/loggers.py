"""Training curves for other tools: CSV files and Weights & Biases. A logger that fails changes no run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.training.options import LoggerOptions

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from rag_exp.core.record import RunRecord

log = logging.getLogger(__name__)


class Mirror:
    """A Lightning logger behind a wall: the first failure is said, and it is not used again."""

    def __init__(self, logger: Logger | None):
        self._logger = logger

    @classmethod
    def build(
        cls, options: LoggerOptions, folder: Path | None, name: str, facts: dict[str, Any] | None = None
    ) -> Mirror:
        """The logger that ``options`` ask for.

        Args:
            folder: where it may write (None: nowhere, so there is none).
            name: what the curves are of.
            facts: plain values to log beside them (a W&B run's config).
        """
        if options.kind == "none" or folder is None:
            return cls(None)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            logger: Logger = _csv(folder, name) if options.kind == "csv" else _wandb(options, folder, name)
            if facts:
                logger.log_hyperparams(facts)
            return cls(logger)
        except Exception as e:  # whatever a service's client raises
            log.warning("logger=%s cannot be used and is left out: %s", options.kind, e)
            return cls(None)

    @property
    def there(self) -> bool:
        """Whether anything is logged at all."""
        return self._logger is not None

    def log(self, values: dict[str, float], step: int) -> None:
        """Log ``values`` at ``step``."""
        self._try("log_metrics", values, step)

    def close(self) -> None:
        """Write out what is left."""
        self._try("finalize", "success")
        try:
            if self._logger is not None and hasattr(self._logger.experiment, "finish"):
                self._logger.experiment.finish()
        except Exception as e:
            log.warning("the logger failed at its end: %s", e)
        self._logger = None

    def _try(self, method: str, *values: Any) -> None:
        if self._logger is None:
            return
        try:
            getattr(self._logger, method)(*values)
        except Exception as e:
            log.warning("the logger failed and is not used from here on: %s", e)
            self._logger = None


def mirror(options: LoggerOptions, record: RunRecord, folder: Path | None = None) -> None:
    """Show a finished run's record in W&B: config, sizes and metrics. Does nothing for other loggers."""
    if options.kind != "wandb":
        return
    facts = {"run_id": record.run_id, "arm": record.arm, **record.config}
    wall = Mirror.build(options, folder or Path("outputs/logs"), record.run_id[:12], facts)
    values = {
        f"{group}/{name}": value
        for group in ("sizes", "metrics", "flops")
        for name, value in getattr(record, group).items()
    }
    wall.log({name: float(value) for name, value in values.items() if value is not None}, step=0)
    wall.close()


def _csv(folder: Path, name: str) -> Logger:
    from pytorch_lightning.loggers import CSVLogger

    return CSVLogger(folder, name=name, version="", flush_logs_every_n_steps=1)


def _wandb(options: LoggerOptions, folder: Path, name: str) -> Logger:
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    # What a run is, is in its config; the machine's and the user's data are nobody's business.
    settings = wandb.Settings(
        console="off", disable_git=True, disable_code=True, x_disable_meta=True, x_disable_stats=True, silent=True
    )
    return WandbLogger(
        name=name,
        project=options.project,
        entity=options.entity,
        save_dir=str(folder),
        offline=options.mode == "offline",
        settings=settings,
        log_model=False,
    )

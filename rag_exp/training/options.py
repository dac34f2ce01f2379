"""What can be chosen about training: optimiser, stages, machine, logger."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from rag_exp.core.options import NEUTRAL, Options

if TYPE_CHECKING:
    from rag_exp.models.reader import Memory

Precision = Literal["32", "bf16"]

MARGINAL_SHARE = 0.4  # of the warm-up's peak rate: the marginal stage goes on from a trained reader


class OptimOptions(Options):
    """AdamW and its learning rate schedule. Matrices decay, vectors (norms, biases) do not."""

    kind: Literal["adamw"] = "adamw"
    lr: float = Field(3e-3, gt=0, description="peak learning rate of every stage that names none of its own")
    betas: tuple[float, float] = Field((0.9, 0.98), description="decay rates of the moment averages")
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    grad_clip: float = Field(1.0, ge=0, description="largest norm of the whole gradient; 0 does not clip")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="how the rate falls after its rise")
    rise: float = Field(
        0.05, ge=0, lt=1, description="share of a stage's steps in which the rate rises linearly from 0"
    )
    min_lr_fraction: float = Field(0.1, ge=0, le=1, description="rate at a stage's end, as a fraction of the peak")


class WarmupOptions(Options):
    """The reader's warm-up: reading the gold passage alone (K = 1) before any passage is retrieved.

    A small reader that marginalises over retrieved passages from random weights learns the answers'
    vocabulary and no more; some hundred steps on gold passages teach it to read.
    """

    steps: int = Field(1800, ge=0, description="0 leaves the stage out")
    batch_size: int = Field(32, ge=1, description="questions a step")
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        "auto", description="peak learning rate; auto: the generator's own; null: optim.lr"
    )


class TrainingOptions(Options):
    """The marginal stage, and the warm-up before it."""

    warmup: WarmupOptions = WarmupOptions()
    steps: int = Field(300, ge=0, description="steps of the marginal stage; 0 leaves it out")
    batch_size: int = Field(8, ge=1, description="questions a step, each with its k passages")
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        "auto", description="peak learning rate of the marginal stage; auto: 0.4 of the generator's own; null: optim.lr"
    )
    retriever_lr: float | None = Field(
        None, gt=0, description="peak learning rate of a retriever in training; null takes its warm-up's"
    )
    questions: int | None = Field(None, ge=1, description="train on the first so many training questions; null: all")
    bucket: int = Field(
        8, ge=1, description="questions of so many batches are sorted by length among themselves; 1 does not sort"
    )
    precision: Literal["auto", "32", "bf16"] = Field(
        "auto", description="auto: bf16 where a CUDA device is used, else 32; resolved before a run is named"
    )

    def resolved(self, own_lr: float) -> TrainingOptions:
        """With numbers in place of ``auto``: what identifies the training and what the stages take.

        Args:
            own_lr: the generator's own peak learning rate.
        """
        warmup = self.warmup
        if warmup.lr == "auto":
            warmup = warmup.model_copy(update={"lr": own_lr})
        return self.model_copy(
            update={"warmup": warmup, "lr": MARGINAL_SHARE * own_lr if self.lr == "auto" else self.lr}
        )

    def resolved_precision(self, accelerator: str = "auto") -> Precision:
        """The precision that training will have, found without importing torch."""
        if self.precision != "auto":
            return self.precision
        return "bf16" if accelerator in ("auto", "gpu") and cuda_present() else "32"


class TrainerOptions(Options):
    """How the machine is used. Nothing here changes a result beyond rounding."""

    accelerator: Annotated[Literal["auto", "cpu", "gpu", "mps"], NEUTRAL] = Field(
        "auto", description="auto: CUDA where there is one, else CPU (mps only when asked for)"
    )
    device: Annotated[int, NEUTRAL] = Field(0, ge=0, description="which GPU; a run uses one, a study uses many")
    threads: Annotated[int | None, NEUTRAL] = Field(None, ge=1, description="torch threads on CPU; null leaves torch's")
    embedders: Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], NEUTRAL] = Field(
        "auto",
        description="processes that embed passages side by side, each on a GPU of its own where there are so many, "
        "else with its part of the threads; auto: one for each GPU, on CPU none but this one",
    )
    num_workers: Annotated[int, NEUTRAL] = Field(0, ge=0, description="processes that make batches; 0: this one")
    progress: Annotated[bool, NEUTRAL] = Field(True, description="show a progress bar")
    checkpoint_every: Annotated[int, NEUTRAL] = Field(
        200, ge=1, description="steps between checkpoints; a killed run goes on from the last one"
    )
    log_every: Annotated[int, NEUTRAL] = Field(20, ge=1, description="steps between lines of the logger")
    microbatch_tokens: Annotated[int | None, NEUTRAL] = Field(
        None,
        ge=1,
        description="tokens read at once in training, and read again in backward, so that peak memory hardly grows "
        "with k; null keeps all activations. Where the generator has dropout, the cut decides which draws it gets",
    )
    gradient_checkpointing: Annotated[bool, NEUTRAL] = Field(
        False, description="compute each layer's activations again in backward instead of keeping them"
    )
    projection_mb: Annotated[int, NEUTRAL] = Field(
        256, ge=0, description="MB of probabilities over the vocabulary kept for backward; more are computed again"
    )

    def memory(self) -> Memory:
        """What the reader may keep for its backward pass."""
        from rag_exp.models.reader import Memory

        return Memory(self.microbatch_tokens, self.gradient_checkpointing, self.projection_mb)

    def resolved_device(self) -> str:
        """The torch device to use: ``cpu``, ``cuda:<device>`` or ``mps``.

        Raises:
            TrainingError: the accelerator that was asked for is not there.
        """
        import torch

        from rag_exp.core.errors import TrainingError

        if self.accelerator == "cpu":
            return "cpu"
        if self.accelerator == "mps":
            if not torch.backends.mps.is_available():
                raise TrainingError("trainer.accelerator=mps: this machine has no usable MPS device; use cpu.")
            return "mps"
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if found == 0 and self.accelerator == "auto":
            return "cpu"
        if self.device >= found:
            raise TrainingError(
                f"trainer.device={self.device}: {found} CUDA devices are usable here (counted from 0). "
                "Lower trainer.device or use trainer.accelerator=cpu."
            )
        return f"cuda:{self.device}"

    def embedding_devices(self) -> tuple[str, ...]:
        """The torch device of each process that embeds; of one alone that is this process.

        Raises:
            TrainingError: the accelerator that was asked for is not there.
        """
        import torch

        device = self.resolved_device()
        gpus = torch.cuda.device_count() if device.startswith("cuda") else 0
        return shared_out(device, gpus, self.embedders)


class LoggerOptions(Options):
    """Where training curves are mirrored. The run's record is the truth; a logger that fails changes no run."""

    kind: Annotated[Literal["none", "csv", "wandb"], NEUTRAL] = "none"
    project: Annotated[str, NEUTRAL] = Field("rag_exp", description="W&B project")
    entity: Annotated[str | None, NEUTRAL] = Field(None, description="W&B team or user")
    mode: Annotated[Literal["offline", "online"], NEUTRAL] = Field("offline", description="W&B only")


def shared_out(device: str, gpus: int, processes: int | Literal["auto"]) -> tuple[str, ...]:
    """The device of each of so many processes: GPUs in turn, from ``device`` on; elsewhere ``device`` for all.

    >>> shared_out("cuda:1", gpus=2, processes=3)
    ('cuda:1', 'cuda:0', 'cuda:1')
    """
    if not gpus:
        return (device,) * (1 if processes == "auto" else processes)
    first = int(device.removeprefix("cuda:"))
    return tuple(f"cuda:{(first + n) % gpus}" for n in range(gpus if processes == "auto" else processes))


def cuda_present() -> bool:
    """Whether torch will find a CUDA device, as far as that shows without importing it (which takes seconds)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and (not visible.strip() or visible.strip().startswith("-1")):
        return False
    try:
        build = metadata.version("torch").partition("+")[2]
    except metadata.PackageNotFoundError:
        return False
    return not build.startswith("cpu") and (Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/gpus").exists())


def stage_optim(optim: OptimOptions, lr: float | None) -> dict[str, Any]:
    """The optimiser fields that a stage is identified by, with its own learning rate put in."""
    return {**optim.identity(), "lr": lr if lr is not None else optim.lr}

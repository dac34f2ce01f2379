"""The learning rate as a pure function of the step, and the optimiser it drives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rag_exp.training.options import OptimOptions

if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim import AdamW, Optimizer


def lr_at(step: int, steps: int, options: OptimOptions, peak: float) -> float:
    """Learning rate of ``step`` (counted from 0) in a stage of ``steps``.

    Rises linearly over the first ``rise`` share of steps, reaching ``peak`` at the last of them, then
    falls to ``min_lr_fraction * peak`` at the stage's last step.
    """
    rising = min(math.ceil(options.rise * steps), steps - 1)
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    if options.schedule == "constant":
        return peak
    done = (step - rising) / max(1, steps - 1 - rising)
    left = 0.5 * (1 + math.cos(math.pi * done)) if options.schedule == "cosine" else 1 - done
    return peak * (options.min_lr_fraction + (1 - options.min_lr_fraction) * left)


def build_optimizer(
    reader: Iterable[Parameter], options: OptimOptions, peak: float, others: Sequence[dict[str, Any]] = ()
) -> AdamW:
    """AdamW over the parameters that require gradients. The reader's matrices decay, its vectors do not.

    Args:
        reader: the reader's parameters, at learning rate ``peak``.
        options: moments, decay.
        peak: the reader's peak rate.
        others: groups of other parameters (a retriever's), each with its own peak ``lr``; they do not decay.
    """
    import torch

    trained = [p for p in reader if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "lr": peak, "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "lr": peak, "weight_decay": 0.0},
        *({**group, "weight_decay": 0.0} for group in others),
    ]
    groups = [{**group, "peak": group["lr"]} for group in groups if group["params"]]
    return torch.optim.AdamW(groups, betas=options.betas, eps=options.eps, fused=True)


def set_rates(optimizer: Optimizer, step: int, steps: int, options: OptimOptions) -> None:
    """Give every group of :func:`build_optimizer` its learning rate of ``step``."""
    for group in optimizer.param_groups:
        group["lr"] = lr_at(step, steps, options, group["peak"])

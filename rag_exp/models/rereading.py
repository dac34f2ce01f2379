"""Groups of rows that are read twice, so that one group's activations are in memory at a time.

Forward reads each group and keeps what it says alone. Backward reads the groups again, one after another, with the
random numbers and the precision of the first time, goes back through each and lets it go; a weight's gradients are
summed over groups as they come. So the peak is that of one group however many there are, for the price of one more
forward pass. A graph of recomputed parts (``torch.utils.checkpoint``) would hold nodes for every operation of every
group until backward ends.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rag_exp.models.packing import ReaderBatch

# What is said of a group's rows, [M, ...], read with these tables in place of the ones that were given.
Read = Callable[[ReaderBatch, Sequence[Tensor]], Tensor]


def read_twice(
    read: Read, groups: Sequence[ReaderBatch], tables: Sequence[Tensor], weights: Iterable[Tensor]
) -> Tensor:
    """``torch.cat([read(group, tables) for group in groups])``, with the same gradients, keeping no activations.

    It has no second derivative; torch refuses one.

    Args:
        read: the reading of a group; what it draws at random comes from torch's own generators.
        groups: which rows are read at once.
        tables: tensors with a history of their own that every group is read with; gradients go to them.
        weights: all leaves beside them that gradients may go to.
    """
    learning = [weight for weight in weights if weight.requires_grad]
    return _Twice.apply(read, groups, len(tables), *tables, *learning)


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, read: Read, groups: Sequence[ReaderBatch], tables: int, *sources: Tensor) -> Tensor:
        device = groups[0].input_ids_NL.device
        ctx.read, ctx.groups, ctx.tables, ctx.device = read, groups, tables, device
        ctx.autocast = {
            "device_type": device.type,
            "dtype": torch.get_autocast_dtype(device.type),
            "enabled": torch.is_autocast_enabled(device.type),
        }
        ctx.save_for_backward(*sources)
        ctx.random, said = [], []
        with torch.enable_grad():  # kernels, and how they draw, may depend on whether there will be a backward pass
            for group in groups:
                ctx.random.append(_random_states(device))
                said.append(read(group, sources[:tables]).detach())
                _give_back(device)
        ctx.sizes = [len(part) for part in said]
        return torch.cat(said)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_M: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[3:]
        sources = list(ctx.saved_tensors)
        # What stands before the tables belongs to the backward pass that this one is a part of.
        tables = [t.detach().requires_grad_(t.requires_grad) for t in sources[: ctx.tables]]
        sources[: ctx.tables] = tables
        wanted = [source for source, need in zip(sources, needed, strict=True) if need]
        sums: list[Tensor | None] = [None] * len(wanted)
        parts = zip(ctx.groups, ctx.random, grad_M.split(ctx.sizes), strict=True)
        with _random_states_kept(ctx.device):
            for group, random, grad in reversed(list(parts)):  # as a graph of them all would be gone through
                _set_random_states(random, ctx.device)
                found = _gradients(ctx, group, tables, wanted, grad)
                for i, gradient in enumerate(found):
                    if gradient is not None:
                        sums[i] = (torch.zeros_like(wanted[i]) if sums[i] is None else sums[i]).add_(gradient)
                del found, gradient
                _give_back(ctx.device)
        each = iter(sums)
        return None, None, None, *(next(each) if need else None for need in needed)


def _gradients(
    ctx: Any, group: ReaderBatch, tables: Sequence[Tensor], wanted: Sequence[Tensor], grad_M: Tensor
) -> tuple[Tensor | None, ...]:
    """A group's gradients, None where it did without a source; its graph is gone when they are there."""
    with torch.enable_grad(), torch.autocast(**ctx.autocast):
        said_M = ctx.read(group, tables)
    return torch.autograd.grad(said_M, wanted, grad_M, allow_unused=True)


def _random_states(device: torch.device) -> list[Tensor]:
    """The states of the generators that a pass on ``device`` draws from."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def _set_random_states(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])


@contextmanager
def _random_states_kept(device: torch.device) -> Iterator[None]:
    before = _random_states(device)
    try:
        yield
    finally:
        _set_random_states(before, device)


def _give_back(device: torch.device) -> None:
    """Give freed memory back to the system where the C library would keep it.

    Groups differ in shape, so that the blocks of one leave holes which those of the next do not fit; over many groups
    glibc's heap would grow to twice what is in use.
    """
    if device.type == "cpu" and _malloc_trim() is not None:
        _malloc_trim()(0)


@cache
def _malloc_trim() -> Any:
    """glibc's function of that name; None elsewhere."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

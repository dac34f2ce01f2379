"""Batches decoded group by group, so that what is cached stays bounded and little padding is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from rag_exp.models.reader import Generator

# Tokens cached at once: a cache of SmolLM2-135M has 45 KB a token, one of a BART of three layers and width 256 has 6.
CACHED = 32_768


@contextmanager
def evaluating(generator: Generator) -> Iterator[None]:
    """Without dropout inside, and as it was before after."""
    trains = generator.training
    generator.eval()
    try:
        yield
    finally:
        generator.train(trains)


def rows_of(group: np.ndarray, together: int) -> np.ndarray:
    """Rows of a group's members, each of which has ``together`` rows side by side."""
    return (group[:, None] * together + np.arange(together)).ravel()


def cache_groups(lengths_R: np.ndarray, most: int = CACHED) -> list[np.ndarray]:
    """Groups of members of similar length, long ones first, that need at most ``most`` cached tokens each.

    Args:
        lengths_R: tokens that each member caches; one that needs more than ``most`` stands alone.
    """
    groups: list[list[int]] = []
    room = 0
    for member in np.argsort(-lengths_R, kind="stable").tolist():
        room -= int(lengths_R[member])
        if room < 0:
            groups.append([])
            room = most - int(lengths_R[member])
        groups[-1].append(member)
    return [np.array(group) for group in groups]


def in_order(parts: list[Tensor | None], groups: list[np.ndarray], together: int, width: int) -> Tensor | None:
    """The rows of all groups in the batch's order, padded to ``width`` with 0; None where there is nothing."""
    found = [pad(part, (0, width - part.shape[1])) for part in parts if part is not None]
    if not found:
        return None
    order = np.concatenate([rows_of(group, together) for group in groups]).argsort()
    return torch.cat(found)[torch.from_numpy(order).to(found[0].device)]

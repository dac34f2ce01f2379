"""How many threads torch takes on a CPU; apart from the loop, so that asking for them loads no Lightning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """So many threads inside, as many as before afterwards; None leaves torch's choice."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def shared_threads(threads: int | None, processes: int) -> int:
    """The threads that each of so many processes takes, of ``threads`` (None: of torch's choice); at least one."""
    return max(1, (torch.get_num_threads() if threads is None else threads) // processes)

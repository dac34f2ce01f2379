"""Which split a block of entities belongs to: a fixed interleaving, the same in every prefix of the world."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLITS = ("train", "dev", "test")
SEEN = "seen"  # the question split that asks train facts again: no entities of its own


def split_of_blocks(blocks: int, dev_share: float, test_share: float) -> NDArray[np.int8]:
    """Index into ``SPLITS`` of blocks 0 .. ``blocks`` - 1.

    Test blocks are spaced evenly (among any first n blocks there are floor(n * share + 1/2)), dev blocks
    evenly among the others.
    """
    import numpy as np

    n = np.arange(blocks + 1)
    counted = np.floor(n * test_share + 0.5)
    is_test = np.diff(counted) > 0
    among_others = n - counted  # blocks before n that are not test blocks
    is_dev = (np.diff(np.floor(among_others * (dev_share / (1 - test_share)) + 0.5)) > 0) & ~is_test
    return np.where(is_test, 2, np.where(is_dev, 1, 0)).astype(np.int8)


def blocks_per_split(blocks: int, dev_share: float, test_share: float) -> dict[str, int]:
    """Number of blocks of each split, by the counting formula (no array is made)."""
    test = int(blocks * test_share + 0.5)
    dev = int((blocks - test) * (dev_share / (1 - test_share)) + 0.5)
    return {"train": blocks - test - dev, "dev": dev, "test": test}

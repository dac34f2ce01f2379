"""The order of batches, as a pure function of (seed, step).

Questions come in an endless stream of epochs, each its own seeded permutation; a batch is the next
``batch_size`` of the stream, and may reach over an epoch's end. Training can so begin at any step
and see exactly what an unbroken training sees from there on, with no state to save.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag_exp.core.rng import numpy_rng

if TYPE_CHECKING:
    import numpy as np


class BatchOrder:
    """Which items make up each batch.

    Padding costs time where long and short items meet in a batch, so the items of ``bucket``
    consecutive batches (a *window*) are sorted by length, cut into batches, and the batches shuffled.
    Which items a window holds does not depend on their lengths: every item is still seen once an
    epoch and every window is a fair sample of the data. Only within a window do similar
    lengths stand together, so a single gradient is less mixed than a random one; ``bucket`` bounds that.

    Args:
        lengths: a cost of each item (its padded length, say); only the order they give is used.
        batch_size: items a batch.
        seed: seed of all permutations.
        bucket: batches a window; 1 leaves the stream as it is.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int, bucket: int = 1):
        import numpy as np

        assert min(len(lengths), batch_size, bucket) > 0
        self.lengths = np.asarray(lengths)
        self.batch_size, self.seed, self.bucket = batch_size, seed, bucket
        self._epoch: tuple[int, np.ndarray] | None = None
        self._window: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def epoch(self, number: int) -> np.ndarray:
        """The permutation of epoch ``number``: int64 [items]."""
        if self._epoch is None or self._epoch[0] != number:
            self._epoch = (number, numpy_rng(self.seed, "order", number).permutation(len(self)))
        return self._epoch[1]

    def stream(self, start: int, stop: int) -> np.ndarray:
        """Items ``start`` to ``stop`` of the endless stream: int64 [stop - start]."""
        import numpy as np

        pieces = []
        while start < stop:
            epoch, offset = divmod(start, len(self))
            pieces.append(self.epoch(epoch)[offset : offset + stop - start])
            start += len(pieces[-1])
        return np.concatenate(pieces)

    def batch(self, step: int) -> np.ndarray:
        """The items of the batch at ``step`` (counted from 0): int64 [batch_size]."""
        import numpy as np

        if self.bucket == 1:
            return self.stream(step * self.batch_size, (step + 1) * self.batch_size)
        number, place = divmod(step, self.bucket)
        if self._window is None or self._window[0] != number:
            size = self.batch_size * self.bucket
            items = self.stream(number * size, (number + 1) * size)
            items = items[np.argsort(self.lengths[items], kind="stable")].reshape(self.bucket, self.batch_size)
            self._window = (number, numpy_rng(self.seed, "window", number).permutation(items, axis=0))
        return self._window[1][place]

"""Lightning's view of a stage's data: an endless stream of batches that can begin at any step."""

from __future__ import annotations

from collections.abc import Iterator

import pytorch_lightning as pl
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from rag_exp.training.order import BatchOrder
from rag_exp.training.reading import Reading, StageData


class StepStream(IterableDataset[Reading]):
    """The batches of steps ``start`` to ``stop``, in order.

    With W workers, worker w makes every W-th of them, and the loader takes from the workers in turn,
    so that the order stays.
    """

    def __init__(self, data: StageData, order: BatchOrder, start: int, stop: int):
        self.data, self.order, self.start, self.stop = data, order, start, stop

    def __iter__(self) -> Iterator[Reading]:
        worker = get_worker_info()
        first, every = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        for step in range(self.start + first, self.stop, every):
            yield self.data.reading(step, self.order.batch(step))


class StageDataModule(pl.LightningDataModule):
    """Feeds a stage from step ``start`` on.

    Args:
        data: what the stage reads.
        order: which questions each step reads.
        start, stop: steps done before, and the stage's length.
        num_workers: processes that make batches (0: the training process itself).
        pin: whether batches go to page-locked memory (for CUDA).
    """

    def __init__(
        self, data: StageData, order: BatchOrder, start: int, stop: int, num_workers: int = 0, pin: bool = False
    ):
        super().__init__()
        self.stream = StepStream(data, order, start, stop)
        self.num_workers, self.pin = num_workers, pin

    def train_dataloader(self) -> DataLoader[Reading]:
        return DataLoader(self.stream, batch_size=None, num_workers=self.num_workers, pin_memory=self.pin)
